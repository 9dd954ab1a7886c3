use super::*;
use crate::types::{ClientId, How, InodeId};

const MS: u64 = 1_000_000;

fn write(at_ms: u64, client: u32, program: u32, bytes: u32) -> Sample {
    Sample {
        at_ns: at_ms * MS,
        client: ClientId(client),
        program: ProgramId(program),
        bytes,
        inode: InodeId(2),
        how: How::Write,
    }
}

/// A megabyte in the first tick of every third second, from 1 s on.
fn run(m: &mut PredictiveLogManager, ticks: std::ops::Range<u64>) -> Vec<Forecast> {
    ticks
        .map(|i| {
            let burst = i % 60 == 20;
            let samples = [write(i * 50 + 10, 1, 1, if burst { 1 << 20 } else { 0 })];
            m.tick((i + 1) * 50 * MS, &samples[..burst as usize], 0)
        })
        .collect()
}

#[test]
fn arms_after_a_minute_and_says_when() {
    let mut m = PredictiveLogManager::new(ManagerConfig::default());
    let all = run(&mut m, 0..60 * 30);
    assert!(matches!(all[1000].fallback, Some(Fallback::ShortHistory { .. })));
    let late = &all[60 * 28..];
    assert_eq!(late[0].fallback, None);
    assert!(late[0].confidence > 0.5, "{}", late[0].confidence);
    // Half a second before the burst and just after it.
    assert!(late[10].total.q99 > 900_000.0 && late[30].total.q99 < 1000.0);
    assert_eq!((late[25].actual_bytes, late[25].actual_requests), (1 << 20, 1));
    assert!((late[10].expected_request_bytes - 1048576.0).abs() < 1.0);
    assert_eq!(late[10].largest_bytes, 1 << 20);
    assert_eq!(late[10].programs.len(), 2);
    assert!(late[25].clients[0].share > 0.99);
    assert!(late[10].client_log_loss_nats < 0.1);
}

#[test]
fn off_and_by_name_at_run_time() {
    let mut m = PredictiveLogManager::new(ManagerConfig::default());
    run(&mut m, 0..1500);
    m.set_choice(Choice::Off);
    let off = run(&mut m, 1500..1501).remove(0);
    assert_eq!((off.fallback, off.confidence, &*off.model), (Some(Fallback::Off), 0.0, "static"));
    m.set_choice(Choice::Model("tsb".into()));
    assert_eq!(run(&mut m, 1501..1502)[0].model, "tsb");
    m.set_choice(Choice::FixedShare);
    assert!(run(&mut m, 1502..1503)[0].total.q99 > 0.0);
}

#[test]
fn overrun_and_clock_jump_fall_back() {
    let mut m = PredictiveLogManager::new(ManagerConfig::default());
    assert_eq!(run(&mut m, 0..1700)[1699].fallback, None);
    let f = m.tick(1701 * 50 * MS, &[], 11 * MS);
    assert!(matches!(f.fallback, Some(Fallback::TickOverrun { .. })));
    let f = m.tick(1702 * 50 * MS, &[], 0);
    assert!(matches!(f.fallback, Some(Fallback::Rearming { .. })));
    let f = m.tick(9_000_000 * MS, &[], 0);
    assert!(matches!(f.fallback, Some(Fallback::ClockJump { ns }) if ns > 0));
    let f = m.tick(1000 * MS, &[], 0);
    assert!(matches!(f.fallback, Some(Fallback::ClockJump { ns }) if ns < 0));
}

#[test]
fn late_calls_put_samples_into_their_ticks() {
    let (mut a, mut b) = (
        PredictiveLogManager::new(ManagerConfig::default()),
        PredictiveLogManager::new(ManagerConfig::default()),
    );
    let samples: Vec<_> = (0..400).map(|n| write(n * 13 + 1, n as u32 % 3, 1, 1000)).collect();
    let mut last = (None, None);
    for i in 1..=104u64 {
        let part = |from: u64, to: u64| {
            let inside = |s: &&Sample| s.at_ns > from * 50 * MS && s.at_ns <= to * 50 * MS;
            samples.iter().filter(inside).copied().collect::<Vec<_>>()
        };
        last.0 = Some(a.tick(i * 50 * MS, &part(i - 1, i), 0));
        if i % 4 == 0 || i == 1 {
            last.1 = Some(b.tick(i * 50 * MS, &part(if i == 4 { 1 } else { i.saturating_sub(4) }, i), 0));
        }
    }
    assert_eq!(last.0, last.1);
    // Too early for a tick: the same again.
    let again = a.tick(104 * 50 * MS + 20 * MS, &[write(5201, 0, 1, 7)], 0);
    assert_eq!(Some(again), last.0);
    assert_eq!(a.tick(105 * 50 * MS, &[], 0).actual_bytes, 73_007);
}

#[test]
fn births_are_leased_for_two_seconds() {
    let mut m = PredictiveLogManager::new(ManagerConfig::default());
    for i in 0..40u64 {
        m.tick(i * 2000 * MS, &[write(i * 2000, i as u32, 4, 1 << 20)], 0);
    }
    let f = m.tick(80_050 * MS, &[write(80_020, 900, 4, 100)], 0);
    let lease = f.births.iter().find(|b| b.client == ClientId(900)).expect("a lease");
    assert_eq!(class_of(lease.bytes as f64), class_of(1048576.0));
    assert!(m.tick(82_030 * MS, &[], 0).births.is_empty());
}

#[test]
fn relives_kept_history() {
    let programs = crate::history::Programs::new();
    (0..3).for_each(|n| drop(programs.name(programs.intern(&format!("p{n}")))));
    let mut old = PredictiveLogManager::new(ManagerConfig::default());
    run(&mut old, 0..3000);
    let kept = old.pattern().save(&programs, 150_000 * MS, 0);
    let (pattern, why) = Pattern::load(&kept, &programs, 10_000 * MS, 0);
    assert_eq!(why, None);
    let mut new = PredictiveLogManager::new(ManagerConfig::default());
    new.warm_up(pattern);
    let f = run(&mut new, 200..460).pop().expect("ticks ran");
    assert_eq!(f.fallback, None);
    assert!(f.confidence > 0.5);
}
