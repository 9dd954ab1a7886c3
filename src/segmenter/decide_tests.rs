use super::*;
use crate::predict::{BirthLease, CLASSES, ClientForecast, Fallback};
use crate::types::{ClientId, ProgramId};
use smallvec::smallvec;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn forecast(total: Distribution) -> Forecast {
    Forecast { total, fallback: None, ..Forecast::none(1_000_000_000) }
}

fn client(id: u32, share: f64, bytes: f64) -> ClientForecast {
    ClientForecast {
        client: ClientId(id),
        program: ProgramId(id),
        expected_bytes: bytes,
        recent_bytes: 10e6 * share,
        age_ns: 9_000_000_000,
        share,
        distribution: Distribution::point(bytes),
    }
}

fn go(f: &Forecast, pool: &PoolState, limits: &Limits) -> Vec<Action> {
    decide(f, pool, &Costs::default(), limits)
}

fn reserved(actions: &[Action], whose: Owner) -> u64 {
    let bytes = |a: &Action| match a {
        Action::Reserve { owner, class_bytes, count } if *owner == whose => class_bytes * *count as u64,
        _ => 0,
    };
    actions.iter().map(bytes).sum()
}

#[test]
fn fallback_is_the_static_size_and_one_spare() {
    let mut f = forecast(Distribution::point(1e9));
    f.fallback = Some(Fallback::Off);
    let first = go(&f, &PoolState::default(), &Limits::default());
    let size = 4 * MIB;
    assert_eq!(
        first,
        [
            Action::Resize { owner: Owner::Shared, segment_bytes: size },
            Action::Reserve { owner: Owner::Shared, class_bytes: size, count: 1 },
        ]
    );
    let mut shared = OwnerState::new(Owner::Shared);
    (shared.segment_bytes, shared.ready) = (size, smallvec![(size, 3), (MIB, 2)]);
    let mut old = OwnerState::new(Owner::Client(ClientId(9)));
    (old.segment_bytes, old.ready) = (MIB, smallvec![(MIB, 1)]);
    let pool = PoolState { owners: vec![shared, old], missed: 0 };
    assert_eq!(
        go(&f, &pool, &Limits::default()),
        [
            Action::Release { owner: Owner::Shared, class_bytes: size, count: 2 },
            Action::Release { owner: Owner::Shared, class_bytes: MIB, count: 2 },
            Action::Resize { owner: Owner::Client(ClientId(9)), segment_bytes: 0 },
            Action::Release { owner: Owner::Client(ClientId(9)), class_bytes: MIB, count: 1 },
        ]
    );
}

#[test]
fn size_by_the_age_seal_and_by_an_eighth() {
    let size = |q50: f64, bytes: f64| {
        let f = Forecast { seal_bytes_q50: q50, ..forecast(Distribution::point(bytes)) };
        go(&f, &PoolState::default(), &Limits::default()).into_iter().find_map(|a| match a {
            Action::Resize { segment_bytes, .. } => Some(segment_bytes),
            _ => None,
        })
    };
    assert_eq!(size(0.0, 0.0), Some(256 * KIB));
    assert_eq!(size(3e6, 0.0), Some(2 * MIB));
    assert_eq!(size(0.0, 30e6), Some(4 * MIB));
    assert_eq!(size(1e12, 0.0), Some(64 * MIB));
}

#[test]
fn a_flood_that_nothing_foresaw_gets_larger_segments_at_once() {
    let f = forecast(Distribution::point(1000.0));
    let mut shared = OwnerState::new(Owner::Shared);
    (shared.segment_bytes, shared.taken_bytes) = (256 * KIB, 600 * KIB);
    let pool = PoolState { owners: vec![shared], missed: 1 };
    let actions = go(&f, &pool, &Limits::default());
    // Made in 12 ms where the smallest takes 8.25.
    assert!(
        actions.contains(&Action::Resize { owner: Owner::Shared, segment_bytes: 4 * MIB }),
        "{actions:?}"
    );
    assert!(reserved(&actions, Owner::Shared) >= 4 * MIB);
}

#[test]
fn a_floor_is_held_in_the_shared_segments_whatever_the_forecast() {
    let limits = Limits { floor_bytes: 2 * MIB, ..Limits::default() };
    let f = forecast(Distribution::point(0.0));
    assert_eq!(reserved(&go(&f, &PoolState::default(), &limits), Owner::Shared), 2 * MIB);
    assert_eq!(reserved(&go(&f, &PoolState::default(), &Limits::default()), Owner::Shared), 0);
    // What is left in the open segment is not counted: it may be little when something comes.
    let mut shared = OwnerState::new(Owner::Shared);
    (shared.segment_bytes, shared.room_bytes, shared.open_age_ns) = (4 * MIB, 3 * MIB, Some(0));
    let pool = PoolState { owners: vec![shared], missed: 0 };
    assert!(reserved(&go(&f, &pool, &limits), Owner::Shared) >= 2 * MIB);
}

#[test]
fn what_is_made_in_time_is_not_held() {
    // 64 MiB come each second, no faster than segments are made: not 64 MiB are held but a few segments.
    let mut costs = Costs::default();
    (0..2400u64).for_each(|tick| costs.observe(tick * 50_000_000, 64 * MIB / 20));
    let f = forecast(Distribution::point(64e6));
    let actions = decide(&f, &PoolState::default(), &costs, &Limits::default());
    let held = reserved(&actions, Owner::Shared);
    assert!((2 * MIB..=24 * MIB).contains(&held), "{} MiB", held / MIB);
    let all = reserved(&go(&f, &PoolState::default(), &Limits::default()), Owner::Shared);
    assert!(all >= 64_000_000);
}

#[test]
fn room_counts_unless_it_is_about_to_be_sealed() {
    let f = forecast(Distribution::point(200_000.0));
    let mut shared = OwnerState::new(Owner::Shared);
    (shared.segment_bytes, shared.room_bytes, shared.open_age_ns) = (256 * KIB, 250_000, Some(0));
    let at = |age| {
        let mut o = shared.clone();
        o.open_age_ns = Some(age);
        reserved(&go(&f, &PoolState { owners: vec![o], missed: 0 }, &Limits::default()), Owner::Shared)
    };
    assert_eq!(at(1_000_000_000), 0);
    assert_eq!(at(4_500_000_000), 256 * KIB);
}

#[test]
fn the_knapsack_matches_brute_force_under_the_cap() {
    let mut x = 11u64;
    let mut next = move || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as usize
    };
    let costs = Costs::default();
    for _ in 0..200 {
        let random = |next: &mut dyn FnMut() -> usize| {
            let mut w = [0.0; CLASSES];
            (0..3).for_each(|_| w[14 + next() % 8] += (1 + next() % 50) as f32);
            w[0] += 100.0;
            Distribution::from_weights(&w)
        };
        let mut f = forecast(random(&mut next));
        f.clients = vec![client(1, 0.5, 0.0)];
        f.clients[0].distribution = random(&mut next);
        let cap = (next() % 9) as u64;
        let limits =
            Limits { segment_bytes_max: 256 * KIB, reserve_bytes_max: cap * 256 * KIB, ..Limits::default() };
        let actions = decide(&f, &PoolState::default(), &costs, &limits);
        let got = [Owner::Shared, Owner::Client(ClientId(1))].map(|o| reserved(&actions, o) / (256 * KIB));
        assert!(got[0] + got[1] <= cap);
        let demands = [f.total.clone(), f.clients[0].distribution.clone()];
        let of = |n: [u64; 2]| {
            let one = |i: usize| cost(&demands[i], n[i] * 256 * KIB, 256 * KIB, f.horizon_ns, &costs);
            one(0) + one(1)
        };
        let all = (0..=8u64).flat_map(|a| (0..=8u64).map(move |b| [a, b]));
        let best = all.filter(|n| n[0] + n[1] <= cap).map(of).fold(f64::INFINITY, f64::min);
        assert!(of(got) <= best + 1e-9, "{got:?} costs {} not {best}", of(got));
    }
}

#[test]
fn clients_that_matter_get_their_own_others_share() {
    let mut f = forecast(Distribution::point(8e6));
    f.clients = vec![client(1, 0.9, 7e6), client(2, 0.05, 4e5)];
    let actions = go(&f, &PoolState::default(), &Limits::default());
    assert!(reserved(&actions, Owner::Client(ClientId(1))) >= 7_000_000);
    assert_eq!(reserved(&actions, Owner::Client(ClientId(2))), 0);
    assert!(reserved(&actions, Owner::Shared) >= 8_000_000);
    f.clients[0].age_ns = 500_000_000;
    let young = go(&f, &PoolState::default(), &Limits::default());
    assert_eq!(reserved(&young, Owner::Client(ClientId(1))), 0);
    let alone = Limits { clients_max: 0, ..Limits::default() };
    assert!(reserved(&go(&f, &PoolState::default(), &alone), Owner::Shared) >= 8_000_000);
}

#[test]
fn a_birth_gets_one_segment_until_its_lease_ends() {
    let mut f = forecast(Distribution::point(0.0));
    let lease = |bytes| BirthLease { client: ClientId(5), program: ProgramId(1), bytes, until_ns: 9 };
    f.births = vec![lease(3_000_000)];
    let owner = Owner::Client(ClientId(5));
    let actions = go(&f, &PoolState::default(), &Limits::default());
    assert_eq!(reserved(&actions, owner), 4 * MIB);
    let mut state = OwnerState::new(owner);
    (state.segment_bytes, state.ready, state.may_shrink) = (4 * MIB, smallvec![(4 * MIB, 1)], false);
    let pool = PoolState { owners: vec![state], missed: 0 };
    assert_eq!(reserved(&go(&f, &pool, &Limits::default()), owner), 0);
    f.births.clear();
    let ended = go(&f, &pool, &Limits::default());
    assert!(ended.contains(&Action::Release { owner, class_bytes: 4 * MIB, count: 1 }));
    assert!(ended.contains(&Action::Resize { owner, segment_bytes: 0 }));
    f.births = vec![lease(1000)];
    assert_eq!(reserved(&go(&f, &PoolState::default(), &Limits::default()), owner), 0);
}

#[test]
fn a_lowered_cap_binds_at_once() {
    let f = forecast(Distribution::point(8e6));
    let mut shared = OwnerState::new(Owner::Shared);
    (shared.segment_bytes, shared.ready, shared.may_shrink) = (MIB, smallvec![(MIB, 8)], false);
    let limits = Limits { reserve_bytes_max: 3 * MIB, ..Limits::default() };
    let actions = go(&f, &PoolState { owners: vec![shared], missed: 0 }, &limits);
    assert!(
        actions.contains(&Action::Release { owner: Owner::Shared, class_bytes: MIB, count: 5 }),
        "{actions:?}"
    );
    assert_eq!(reserved(&actions, Owner::Shared), 0);
}
