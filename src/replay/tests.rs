use super::*;
use crate::history::Sample;
use crate::sys::clock::{self, Clock};
use crate::types::{ClientId, How, InodeId, ProgramId};

struct Still;
impl Clock for Still {
    fn monotonic_ns(&self) -> u64 {
        0
    }
    fn wall_ns(&self) -> i64 {
        0
    }
}

fn write(at_ms: u64, bytes: u32) -> Sample {
    let (client, program, inode) = (ClientId(1), ProgramId(1), InodeId(1));
    Sample { at_ns: at_ms * 1_000_000, client, program, bytes, inode, how: How::Write }
}

/// 8 MiB within 40 ms, every 3 s, from 1.5 s on.
fn periodic(bursts: u64) -> Trace {
    let burst = |b: u64| (0..16).map(move |i| write(1500 + b * 3000 + i * 5 / 2, 1 << 19));
    Trace::from_samples(std::iter::once(write(0, 1)).chain((0..bursts).flat_map(burst)).collect())
}

fn only(trace: &Trace, policies: &[&str]) -> ReplayReport {
    let policies = policies.iter().map(|p| p.to_string()).collect();
    replay(trace, &ReplayOptions { policies, ..ReplayOptions::default() }, &Still).expect("known policies")
}

#[test]
fn a_periodic_burst_is_reserved_before_it_comes() {
    // Scored from the 20th burst on; static until the 60 s of history are there.
    let r = only(&periodic(40), &["static-1m", "static-4m", "leader", "markov", "renewal", "oracle"]);
    let of = |name: &str| r.policies.iter().find(|p| p.policy == name).expect("was asked for");
    assert!(of("static-1m").stalls > 20, "{r}");
    for name in ["leader", "markov", "renewal", "oracle"] {
        assert_eq!((of(name).stalls, of(name).wait_p999_us), (0, 0), "{name}\n{r}");
    }
    assert!(of("leader").idle_mib < 1.5 * of("oracle").idle_mib, "{r}");
    assert!(of("leader").relative_pinball_99 < 0.8, "{r}");
}

#[test]
fn the_same_input_gives_the_same_output() {
    let t = periodic(25);
    assert_eq!(only(&t, &["leader", "fixed-share"]), only(&t, &["leader", "fixed-share"]));
}

#[test]
fn all_policies_play_and_the_json_has_the_contract_s_shape() {
    let options = ReplayOptions::default();
    let r = replay(&periodic(4), &options, &*clock::real()).expect("all policies are known");
    assert_eq!(r.policies.len(), all_policies().len());
    let json = serde_json::to_value(&r).expect("plain numbers and strings");
    assert_eq!((json["version"].as_u64(), json["trace"]["programs"].as_u64()), (Some(1), Some(1)));
    assert_eq!(json["policies"][0].as_object().map(|o| o.len()), Some(22));
    assert!(
        json["policies"].as_array().is_some_and(|all| all.iter().all(|p| {
            p.as_object().is_some_and(|o| o.iter().all(|(k, v)| k == "policy" || v.is_number()))
        }))
    );
    assert_eq!(r.to_string().lines().count(), 2 + r.policies.len());
}

#[test]
fn unknown_policies_and_endless_traces_are_refused() {
    let t = periodic(2);
    let ask = |p: &str| {
        let policies = vec![p.to_string()];
        replay(&t, &ReplayOptions { policies, ..ReplayOptions::default() }, &Still)
    };
    assert!(ask("off").is_err_and(|e| e.contains("static-16m-4")));
    assert!(ask("nonsense").is_err_and(|e| e.contains("nonsense")));
    let long = Trace::from_samples(vec![write(0, 1), write(1 << 40, 1)]);
    assert!(replay(&long, &ReplayOptions::default(), &Still).is_err_and(|e| e.contains("two days")));
}

#[test]
fn clients_that_matter_are_isolated_in_the_simulation_too() {
    let mut samples = periodic(30).samples;
    samples.extend((0..1800).map(|i| Sample {
        client: ClientId(2),
        program: ProgramId(2),
        ..write(i * 50, 4096)
    }));
    let mut options = ReplayOptions { policies: vec!["leader".into()], ..ReplayOptions::default() };
    options.limits.clients_max = 8;
    let r = replay(&Trace::from_samples(samples), &options, &Still).expect("a known policy");
    assert!(r.policies[0].stalls <= 1, "{r}");
}
