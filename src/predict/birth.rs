//! What a new client of a program writes in its first second: a histogram by program, backing off to
//! the program that started it and then to all (PREDICTION.md, finding 3 and section 3).

use super::models::Histogram;
use super::{CLASSES, Distribution, class_of};
use crate::types::ProgramId;
use std::collections::HashMap;

/// Births below which a histogram is not trusted.
const BIRTHS_MIN: f32 = 12.0;
/// Old births fade with each new one.
const FADE: f32 = 0.998;
const PROGRAMS_MAX: usize = 512;

/// The histograms.
#[derive(Clone, Debug, Default)]
pub struct BirthHistogram {
    programs: HashMap<ProgramId, Histogram>,
    parents: HashMap<ProgramId, ProgramId>,
    all: Histogram,
}

impl BirthHistogram {
    /// A client of this program ended its first second with so many bytes.
    pub fn observe(&mut self, program: ProgramId, bytes: u64) {
        let class = class_of(bytes as f64);
        if self.programs.len() >= PROGRAMS_MAX
            && !self.programs.contains_key(&program)
            && let Some(rarest) = self
                .programs
                .iter()
                .min_by(|a, b| a.1.total.total_cmp(&b.1.total).then(a.0.cmp(b.0)))
                .map(|(p, _)| *p)
        {
            self.programs.remove(&rarest);
            self.parents.remove(&rarest);
        }
        let own = self.programs.entry(program).or_default();
        own.scale(FADE);
        own.add(class, 1.0);
        self.all.scale(FADE);
        self.all.add(class, 1.0);
    }

    /// `program` was last started by `parent`.
    pub fn set_parent(&mut self, program: ProgramId, parent: ProgramId) {
        if program != parent && (self.parents.len() < PROGRAMS_MAX || self.parents.contains_key(&program)) {
            self.parents.insert(program, parent);
        }
    }

    /// A quantile of the first second of a new client, bytes; `None` until there were enough births.
    pub fn quantile(&self, program: ProgramId, tau: f64) -> Option<f64> {
        Some(Distribution::from_weights(self.find(program)?).quantile_within(tau))
    }

    fn find(&self, program: ProgramId) -> Option<&[f32; CLASSES]> {
        let trusted = |h: &&Histogram| h.total >= BIRTHS_MIN - 0.5;
        let parent = self.parents.get(&program).and_then(|p| self.programs.get(p)).filter(trusted);
        let own = self.programs.get(&program).filter(trusted);
        own.or(parent).or(Some(&self.all).filter(trusted)).map(|h| &h.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ProgramId = ProgramId(1);
    const B: ProgramId = ProgramId(2);
    const C: ProgramId = ProgramId(3);

    #[test]
    fn backs_off_to_parent_then_to_all() {
        let mut b = BirthHistogram::default();
        assert_eq!(b.quantile(A, 0.9), None);
        (0..20).for_each(|_| b.observe(A, 1 << 20));
        (0..60).for_each(|_| b.observe(B, 1 << 12));
        let q = |b: &BirthHistogram, p| b.quantile(p, 0.9).map(class_of);
        assert_eq!(q(&b, A), Some(class_of(1048576.0)));
        assert_eq!(q(&b, B), Some(class_of(4096.0)));
        assert_eq!(q(&b, C), Some(class_of(1048576.0)));
        b.set_parent(C, B);
        assert_eq!(q(&b, C), Some(class_of(4096.0)));
        (0..12).for_each(|_| b.observe(C, 0));
        assert_eq!(b.quantile(C, 0.9), Some(0.0));
    }

    #[test]
    fn is_bounded() {
        let mut b = BirthHistogram::default();
        (0..5000).for_each(|n| b.observe(ProgramId(n), 1));
        assert!(b.programs.len() <= PROGRAMS_MAX);
    }
}
