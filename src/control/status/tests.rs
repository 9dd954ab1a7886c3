use super::*;
use serde_json::Value;

/// The contract, letter for letter.
const CONTRACT: &str = r#"
{"version":1,"state":"serving","pid":1,"mountpoint":"","backing":"","log_dir":"","uptime_seconds":0.0,
 "requests":{"write":{"count":0,"bytes":0,"p50_us":0,"p99_us":0,"p999_us":0},"read":{},"fsync":{}},
 "log":{"capacity_bytes":0,"used_bytes":0,"dirty_bytes":0,"appended_lsn":0,"durable_lsn":0,
        "oldest_dirty_seconds":0.0,"device_syncs":0,"segments":{"free":0,"reserved":0,"open":0,"sealed":0}},
 "writeback":{"backlog_bytes":0,"bytes_per_second":0,"eta_seconds":null,"stored_bytes":0,"absorbed_bytes":0,
        "requests":0,"retries":0,"errors":0,"last_error":null},
 "prediction":{"interval_ms":50,"horizon_ms":1000,"model":"","confidence":0.0,"fallback":null,
        "expected_requests":0.0,"expected_request_bytes":0.0,"expected_bytes":0.0,
        "actual_requests":0,"actual_bytes":0,"reserve_hits":0,"reserve_misses":0,"stalls":0,
        "idle_reserved_bytes":0,"tick_p50_us":0,"tick_p99_us":0},
 "clients":[{"client":"pid:start","pid":0,"program":"","requests":0,"bytes":0,"dirty_bytes":0,
        "segment_bytes":0,"reserved_bytes":0,"expected_bytes":0.0,"share":0.0,"throttled_seconds":0.0}]}"#;

/// Fields we added to the contract.
const ADDED: &[&str] = &[
    ".reason",
    ".kept",
    ".open_handles",
    ".transport",
    ".umount_waits",
    ".backing_kind",
    ".store_requests",
    ".read_cache",
    ".writeback.files",
    ".writeback.conflicts",
    ".metrics",
    ".writeback.closes_after_write",
    ".writeback.contents_stored",
    ".writeback.uploads_saved",
    ".prediction.q95_bytes",
    ".prediction.q99_bytes",
    ".clients[0].p99_us",
    ".clients[0].ended",
    ".writeback.note",
    ".settings",
    ".log.sync_failures",
    ".log.segments_latched",
    ".log.segments_rewritten",
];

fn compare(want: &Value, got: &Value, path: &str, bad: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            for (k, v) in w {
                match g.get(k) {
                    Some(have) => compare(v, have, &format!("{path}.{k}"), bad),
                    None => bad.push(format!("missing {path}.{k}")),
                }
            }
            for k in g.keys().filter(|k| !w.is_empty() && !w.contains_key(*k)) {
                if !ADDED.contains(&format!("{path}.{k}").as_str()) {
                    bad.push(format!("unknown {path}.{k}"));
                }
            }
        }
        (Value::Array(w), Value::Array(g)) => compare(&w[0], &g[0], &format!("{path}[0]"), bad),
        (Value::Number(w), Value::Number(g)) if w.is_f64() == g.is_f64() => {}
        (Value::String(_), Value::String(_)) | (Value::Null, Value::Null) => {}
        _ => bad.push(format!("{path}: {want} became {got}")),
    }
}

#[test]
fn json_is_the_contract() {
    let status =
        Status { clients: vec![Client { client: "1:2".into(), ..Client::default() }], ..Status::default() };
    let got: Value = serde_json::from_str(&status.to_json()).unwrap();
    let mut bad = Vec::new();
    compare(&serde_json::from_str(CONTRACT).unwrap(), &got, "", &mut bad);
    assert_eq!(bad, Vec::<String>::new());
    for kind in ["write", "read", "fsync"] {
        assert_eq!(got["requests"][kind].as_object().unwrap().len(), 5);
    }
}

#[test]
fn the_contract_can_be_read_back_and_states_have_their_names() {
    for (state, name) in [
        (State::Serving, "serving"),
        (State::Draining, "draining"),
        (State::Degraded, "degraded"),
        (State::Stopped, "stopped"),
    ] {
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{name}\""));
        assert_eq!(state.name(), name);
    }
    let status = Status { reason: Some("backing down".into()), ..Status::default() };
    assert_eq!(serde_json::from_str::<Status>(&status.to_json()).unwrap(), status);
}

#[test]
fn tidy_bounds_everything() {
    let clients = (0..5000).map(|i| Client {
        client: format!("{i}:0"),
        bytes: i,
        share: f64::NAN,
        program: "x".repeat(500),
        ..Client::default()
    });
    let mut status =
        Status { clients: clients.collect(), uptime_seconds: f64::INFINITY, ..Status::default() };
    status.writeback.eta_seconds = Some(f64::NAN);
    status.writeback.last_error = Some("ü".repeat(10_000));
    let status = status.tidy();
    assert_eq!(status.clients.len(), CLIENTS_MAX);
    assert_eq!(status.clients[0].bytes, 4999);
    assert_eq!(status.clients[0].share, 0.0);
    assert_eq!(status.uptime_seconds, 0.0);
    assert_eq!(status.writeback.eta_seconds, None);
    let bytes = crate::control::codec::encode(&status).unwrap();
    assert!(bytes.len() <= crate::control::codec::FRAME_BYTES_MAX, "{}", bytes.len());
}
