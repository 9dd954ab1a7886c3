use super::*;
use proptest::prelude::*;

fn log_extent(n: u64, len: u64) -> Extent {
    Extent { len, lsn: Lsn(n), source: Source::Log { segment: SegmentId(n as u32), record: 0, data: 0 } }
}

proptest! {
    /// Against an array of (writer, offset in its record): every byte comes from the last writer,
    /// and the live counts equal what the map holds.
    #[test]
    fn every_byte_comes_from_its_last_writer(ops in prop::collection::vec((0u64..200, 1u64..80, 0u8..4), 1..60)) {
        let base_end = 90u64;
        let mut model: Vec<Option<(u64, u64)>> = vec![None; 300];
        let mut map = Map::default();
        let mut live = std::collections::HashMap::new();
        for (i, (start, len, what)) in ops.iter().enumerate() {
            let n = i as u64 + 1;
            let mut gone = Vec::new();
            if *what == 0 {
                map.remove(ByteRange::at(*start, *len), &mut |e| gone.push(*e));
                model[*start as usize..(*start + *len) as usize].fill(None);
            } else {
                map.insert(*start, log_extent(n, *len), &mut |e| gone.push(*e));
                live.insert(n, *len as i64);
                for b in 0..*len { model[(*start + b) as usize] = Some((n, b)); }
            }
            for g in gone { *live.entry(g.lsn.0).or_default() -= g.len as i64; }
        }
        let mut counted = std::collections::HashMap::new();
        for (_, e) in map.iter() { *counted.entry(e.lsn.0).or_insert(0i64) += e.len as i64; }
        live.retain(|_, v| *v != 0);
        prop_assert_eq!(&live, &counted);
        let mut at = 10;
        for p in map.plan(ByteRange { start: 10, end: 290 }, base_end) {
            prop_assert_eq!(p.range.start, at);
            at = p.range.end;
            for b in p.range.start..p.range.end {
                match p.source {
                    None => prop_assert!(model[b as usize].is_none() && b < base_end),
                    Some(Source::Zero) => prop_assert!(model[b as usize].is_none() && b >= base_end),
                    Some(Source::Log { segment, data, .. }) => {
                        let want = Some((segment.0 as u64, data as u64 + b - p.range.start));
                        prop_assert_eq!(model[b as usize], want);
                    }
                    Some(Source::Damaged) => prop_assert!(false),
                }
            }
        }
        prop_assert_eq!(at, 290);
    }
}

#[test]
fn stored_extents_leave_newer_ones() {
    let mut m = Map::default();
    m.insert(0, log_extent(1, 10), &mut |_| {});
    m.insert(5, log_extent(2, 10), &mut |_| {});
    let mut bytes = 0;
    m.remove_stored(Lsn(1), &mut |e| bytes += e.len);
    assert_eq!((bytes, m.len()), (5, 1));
}
