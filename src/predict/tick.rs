//! The sums of one tick.

use super::features::TickSums;
use crate::history::Sample;
use crate::types::{ClientId, How, ProgramId};

/// What was written in one tick, by whom.
#[derive(Default)]
pub struct Tick {
    pub sums: TickSums,
    pub programs: Vec<(ProgramId, u64, u64)>,
    pub clients: Vec<(ClientId, ProgramId, u64)>,
}

impl Tick {
    /// Adds a sample.
    pub fn add(&mut self, s: &Sample) {
        match s.how {
            How::Open | How::Create => self.sums.opens += 1,
            How::Fsync => self.sums.fsyncs += 1,
            _ => {}
        }
        if !s.is_write() {
            return;
        }
        let bytes = s.bytes as u64;
        self.add_program(s.program, bytes, 1);
        match self.clients.iter_mut().find(|c| c.0 == s.client) {
            Some(c) => c.2 += bytes,
            None => self.clients.push((s.client, s.program, bytes)),
        }
    }
    /// Adds a sum of one program.
    pub fn add_program(&mut self, program: ProgramId, bytes: u64, requests: u64) {
        self.sums.bytes += bytes;
        self.sums.requests += requests;
        match self.programs.iter_mut().find(|p| p.0 == program) {
            Some(p) => (p.1, p.2) = (p.1 + bytes, p.2 + requests),
            None => self.programs.push((program, bytes, requests)),
        }
    }
}
