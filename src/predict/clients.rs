//! How the writes of a program spread over its live clients.

use crate::types::{ClientId, ProgramId};
use std::collections::HashMap;

const CLIENTS_MAX: usize = 256;
/// Bytes fade with a half-life of about 5 s at 50 ms ticks.
const FADE: f64 = 0.9931;
/// Below this a client is no longer live.
const BYTES_MIN: f64 = 1.0;

#[derive(Clone, Copy, Debug)]
struct Recent {
    program: ProgramId,
    bytes: f64,
    ticks: u32,
}

/// Recent bytes of live clients.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    recent: HashMap<ClientId, Recent>,
}

/// A live client and its part of its program's recent bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientShare {
    pub client: ClientId,
    pub program: ProgramId,
    pub share: f64,
    pub recent_bytes: f64,
    /// Ticks since its first write.
    pub ticks: u32,
}

impl Clients {
    /// A finished tick: bytes by client.
    pub fn observe(&mut self, clients: &[(ClientId, ProgramId, u64)]) {
        for r in self.recent.values_mut() {
            r.bytes *= FADE;
            r.ticks = r.ticks.saturating_add(1);
        }
        self.recent.retain(|_, r| r.bytes >= BYTES_MIN);
        for (client, program, bytes) in clients {
            if self.recent.len() >= CLIENTS_MAX && !self.recent.contains_key(client) {
                self.make_room();
            }
            let r = self.recent.entry(*client).or_insert(Recent { program: *program, bytes: 0.0, ticks: 0 });
            r.program = *program;
            r.bytes += *bytes as f64;
        }
    }

    /// The clients with the most recent bytes, at most `max`.
    pub fn heaviest(&self, max: usize) -> Vec<ClientShare> {
        let mut programs: HashMap<ProgramId, f64> = HashMap::new();
        self.recent.values().for_each(|r| *programs.entry(r.program).or_default() += r.bytes);
        let mut all: Vec<ClientShare> = self
            .recent
            .iter()
            .map(|(client, r)| ClientShare {
                client: *client,
                program: r.program,
                share: r.bytes / programs[&r.program],
                recent_bytes: r.bytes,
                ticks: r.ticks,
            })
            .collect();
        all.sort_by(|a, b| b.recent_bytes.total_cmp(&a.recent_bytes).then(a.client.cmp(&b.client)));
        all.truncate(max);
        all
    }

    /// Recent bytes of all.
    pub fn recent_bytes(&self) -> f64 {
        self.recent.values().map(|r| r.bytes).sum()
    }

    fn make_room(&mut self) {
        let mut bytes: Vec<f64> = self.recent.values().map(|r| r.bytes).collect();
        let cut = *bytes.select_nth_unstable_by(CLIENTS_MAX / 4, f64::total_cmp).1;
        self.recent.retain(|_, r| r.bytes > cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_within_a_program_and_bounded() {
        let mut c = Clients::default();
        let (a, b, x) = (ClientId(1), ClientId(2), ClientId(3));
        c.observe(&[(a, ProgramId(1), 300), (b, ProgramId(1), 100), (x, ProgramId(2), 50)]);
        let top = c.heaviest(2);
        assert_eq!((top.len(), top[0].client, top[0].share, top[1].share), (2, a, 0.75, 0.25));
        (0..5000).for_each(|_| c.observe(&[]));
        assert!(c.heaviest(9).is_empty());
        (0..1000).for_each(|n| c.observe(&[(ClientId(n), ProgramId(1), 1 << 20)]));
        assert!(c.recent.len() <= CLIENTS_MAX);
    }
}
