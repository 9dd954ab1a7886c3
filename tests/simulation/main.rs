//! Deterministic simulation of the whole volume: many clients, seals, writeback, recycling, checkpoints,
//! deaths at any call of the disk or the backing, recovery (killed too), and again; checked against a
//! model after every recovery, and in the backing after a complete drain.
//!
//! FORELOG_SEEDS=FROM..TO runs other seeds; a failure names its seed. RUST_LOG=debug with --nocapture tells every
//! operation of the programs and every change of the backing.

#![allow(clippy::disallowed_methods)]

mod behind;
mod beside;
mod damage;
mod looks;
mod model;
mod power;
mod programs;
mod removals;
mod stress;
mod world;

use world::World;

fn one(w: &mut World) -> Result<(), String> {
    w.mount()?;
    for _ in 0..2 + w.dice.below(4) {
        for _ in 0..1 + w.dice.below(4) {
            let n = 1 + w.dice.below(40);
            w.act(n)?;
            if w.dice.chance(60) {
                let drain = w.dice.chance(50);
                w.write_back(drain)?;
            }
        }
        match w.dice.below(10) {
            0..=6 => w.crash()?,
            7..=8 => w.unmount()?,
            _ => continue,
        }
        w.mount()?;
        w.verify()?;
    }
    w.unmount()
}

/// FORELOG_CUTS=FROM..TO runs other seeds.
#[test]
fn a_power_cut_takes_a_suffix_of_what_each_program_did() {
    cuts(seeds_of("FORELOG_CUTS", 0..150), 0);
}

/// FORELOG_FAULTS=FROM..TO runs other seeds.
#[test]
fn what_a_failed_sync_did_not_keep_is_never_told_to_be_synced() {
    let seen = cuts(seeds_of("FORELOG_FAULTS", 0..150), 15);
    assert!(seen.failed_syncs > 0 && seen.rewritten > 0, "no sync failed");
}

fn cuts(seeds: std::ops::Range<u64>, bad_syncs: u64) -> power::Seen {
    logging();
    let (mut failed, mut all) = (Vec::new(), power::Seen::default());
    for seed in seeds {
        match power::one(seed, bad_syncs) {
            Ok(s) => {
                all.cuts += s.cuts;
                all.failed_syncs += s.failed_syncs;
                all.rewritten += s.rewritten;
            }
            Err(e) => {
                println!("seed {seed}: {e}");
                failed.push(seed);
            }
        }
    }
    println!(
        "{} power cuts, {} failed syncs told, {} segments rewritten",
        all.cuts, all.failed_syncs, all.rewritten
    );
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
    all
}

/// Silent, but for what RUST_LOG asks for.
fn logging() {
    let mut log = env_logger::builder();
    log.filter_level(log::LevelFilter::Off).parse_default_env();
    log.is_test(true).format_target(false).format_timestamp(None).try_init().ok();
}

fn seeds_of(name: &str, default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var(name) else { return default };
    let (a, b) = text.split_once("..").unwrap_or((&text, ""));
    let from: u64 = a.parse().expect("FROM..TO");
    from..b.parse().unwrap_or(from + 1)
}

#[test]
fn every_crash_recovers_all_that_was_acknowledged() {
    logging();
    let mut failed = Vec::new();
    for seed in seeds_of("FORELOG_SEEDS", 0..300) {
        let mut w = World::new(seed);
        if let Err(e) = one(&mut w) {
            println!("seed {seed}: {e}");
            if let Err(e) = w.verify() {
                println!("  at that moment {e}");
            }
            failed.push(seed);
        }
        w.history();
    }
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
}

/// A backing that is down for two days, with a death in the middle; then it is back and gets everything.
#[test]
fn a_backing_that_is_down_for_days_gets_everything_in_the_end() {
    logging();
    for seed in seeds_of("FORELOG_OUTAGES", 0..20) {
        let mut w = World::new(seed);
        let days = |w: &mut World| -> Result<(), String> {
            w.mount()?;
            w.act(20)?;
            w.write_back(true)?;
            w.act(10)?;
            w.outage(24)?;
            if w.oldest_dirty_seconds()? < 23 * 3600 {
                return Err("the age of the backlog is not told".into());
            }
            w.crash()?;
            w.mount()?;
            w.verify_alone()?;
            w.outage(24)?;
            if w.oldest_dirty_seconds()? < 47 * 3600 {
                return Err("the age of the backlog did not outlive a death".into());
            }
            w.verify()?;
            w.unmount()
        };
        if let Err(e) = days(&mut w) {
            panic!("seed {seed}: {e}");
        }
        w.history();
    }
}
