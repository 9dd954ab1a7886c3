use super::*;
use crate::control::status::Client;
use std::collections::BTreeSet;

fn scrape() -> Scrape {
    let mut times = Histogram::new_with_bounds(1, 100_000_000_000, 2).unwrap();
    for ns in [10_000, 11_000, 1_500_000, 50_000_000_000] {
        times.record(ns).unwrap();
    }
    let empty = || Histogram::new_with_bounds(1, 100_000_000_000, 2).unwrap();
    let mut status =
        Status { mountpoint: "/secret/place".into(), backing: "/secret/back".into(), ..Status::default() };
    status.store_requests.insert("put".into(), 3);
    status.clients = vec![Client::default(), Client { ended: true, ..Client::default() }];
    let odd =
        Program { name: "a\"b\\c\n\u{fffd}".into(), bytes: 7, throttled_seconds: 0.5, ..Program::default() };
    Scrape { status, times: [(times, 50_001_521_000), (empty(), 0), (empty(), 0)], programs: vec![odd] }
}

/// Rows `| name | type | labels | meaning |` of the document.
fn documented() -> BTreeSet<[String; 4]> {
    let text = include_str!("../../docs/METRICS.md");
    let rows = text.lines().filter(|l| l.starts_with("| `forelog_"));
    rows.map(|l| {
        let cells: Vec<String> = l.trim_matches('|').split('|').map(|c| c.trim().replace('`', "")).collect();
        cells.try_into().expect("four cells a row")
    })
    .collect()
}

/// The name under which samples of a family appear.
fn sample_name(f: &Family<'_>) -> String {
    let unit = f.unit.as_ref().map(|u| format!("_{}", u.as_str())).unwrap_or_default();
    let end = match f.kind {
        MetricType::Counter => "_total",
        MetricType::Info => "_info",
        _ => "",
    };
    format!("forelog_{}{unit}{end}", f.name)
}

#[test]
fn the_document_lists_exactly_what_is_served() {
    let s = scrape();
    let families = s.families();
    let served: BTreeSet<[String; 4]> = families
        .iter()
        .map(|f| [sample_name(f), f.kind.as_str().into(), f.labels.join(", "), f.help.to_owned()])
        .collect();
    assert_eq!(served.len(), families.len(), "a name twice");
    let documented = documented();
    let missing: Vec<_> = served
        .difference(&documented)
        .map(|r| format!("| `{}` | {} | {} | {} |", r[0], r[1], r[2], r[3]))
        .collect();
    let stale: Vec<_> = documented.difference(&served).map(|r| &r[0]).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing:\n{}\nstale: {stale:?}", missing.join("\n"));
}

#[test]
fn the_text_keeps_the_format_and_names_no_path() {
    let text = scrape().text();
    assert!(text.ends_with("# EOF\n") && !text.contains("secret"), "{text}");
    assert!(text.contains(
        "# TYPE forelog_request_duration_seconds histogram\n# UNIT forelog_request_duration_seconds seconds\n"
    ));
    assert!(text.contains("forelog_request_duration_seconds_count{kind=\"write\"} 4\n"), "{text}");
    let buckets = text.lines().filter(|l| l.contains("_bucket{") && l.contains("kind=\"write\""));
    let counts: Vec<&str> = buckets.filter_map(|l| l.rsplit(' ').next()).collect();
    assert_eq!(counts, ["1", "2", "2", "2", "2", "2", "2", "3", "3", "3", "3", "3", "3", "3", "3", "3", "4"]);
    assert!(
        text.contains("forelog_program_written_bytes_total{program=\"a\\\"b\\\\c?\u{fffd}\"} 7\n"),
        "{text}"
    );
    assert!(text.contains("forelog_state{state=\"serving\"} 1\n") && text.contains("forelog_clients 1\n"));
    assert!(text.contains("forelog_store_requests_total{kind=\"put\"} 3\n"));
    // Each family is described, with or without samples.
    let mut families = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            families += 1;
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
            assert!(
                !name.ends_with("_total") && ["counter", "gauge", "histogram", "info"].contains(&kind),
                "{name}"
            );
            assert!(["_ms", "_us", "_ns", "_mib", "_percent"].iter().all(|u| !name.ends_with(u)), "{name}");
        }
    }
    assert_eq!(families, documented().len());
}

/// Every name of ours in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_name(c)).filter(|w| w.starts_with("forelog_"));
    words.map(str::to_owned).collect()
}

fn strings<'a>(value: &'a serde_json::Value, key: &str, out: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(map) => {
            for (k, v) in map {
                match v.as_str() {
                    Some(s) if k == key => out.push(s),
                    _ => strings(v, key, out),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|v| strings(v, key, out)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let mut known: BTreeSet<String> = documented().into_iter().map(|r| r[0].clone()).collect();
    for end in ["bucket", "sum", "count"] {
        known.insert(format!("forelog_request_duration_seconds_{end}"));
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../mount-scripts/grafana-dashboard.json")).expect("valid JSON");
    let (mut queries, mut titles) = (Vec::new(), Vec::new());
    strings(&dashboard["panels"], "expr", &mut queries);
    strings(&dashboard["panels"], "title", &mut titles);
    assert!(
        queries.len() >= titles.len() && titles.len() >= 10,
        "{} queries, {} panels",
        queries.len(),
        titles.len()
    );
    let unknown: Vec<_> = queries.iter().flat_map(|q| named(q)).filter(|n| !known.contains(n)).collect();
    assert!(unknown.is_empty(), "the dashboard asks for {unknown:?}");
    assert!(queries.iter().all(|q| q.contains("forelog_")), "{queries:?}");

    let alerts = include_str!("../../mount-scripts/alerts.yml");
    let rules: String =
        alerts.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let unknown: Vec<_> = named(&rules).into_iter().filter(|n| !known.contains(n)).collect();
    assert!(unknown.is_empty(), "the alerts ask for {unknown:?}");
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|l| l.trim().strip_prefix("- record: ")).collect();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 5);
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        for part in ["expr:", "for:", "severity:", "summary:", "description:", "What to do:"] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let used = alert.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for rule in used.filter(|w| w.starts_with("forelog:")) {
            assert!(recorded.contains(rule), "{name} uses {rule}, which nothing records");
        }
    }
}
