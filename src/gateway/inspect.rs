//! fsck and dump: looking at a log without changing it.

use crate::format::mutation::Mutation;
use crate::sys::disk::{Disk, RealDisk};
use crate::volume::read_log;
use serde_json::json;
use std::io::Write;
use std::path::Path;

fn open(log_dir: &Path) -> Result<RealDisk, String> {
    let disk = RealDisk::open(log_dir).map_err(|e| format!("log directory {}: {e}", log_dir.display()))?;
    match disk.list() {
        Ok(files) if files.iter().any(|f| f.0 == "checkpoint" || f.0.ends_with(".seg")) => Ok(disk),
        Ok(_) => Err(format!("{} holds no log", log_dir.display())),
        Err(e) => Err(format!("listing {} failed: {e}", log_dir.display())),
    }
}

/// A report, and whether all is well.
pub fn fsck(log_dir: &Path, as_json: bool) -> Result<(String, bool), String> {
    let disk = open(log_dir)?;
    let image = match read_log(&disk) {
        Ok(i) => i,
        Err(e) => {
            let text = if as_json {
                json!({"version": 1, "clean": false, "error": e}).to_string()
            } else {
                format!("{}: {e}", log_dir.display())
            };
            return Ok((text, false));
        }
    };
    let from = image.checkpoint.as_ref().map_or(0, |c| c.lsn);
    let records: usize = image.scans.iter().map(|s| s.3.records.len()).sum();
    let waiting: usize =
        image.scans.iter().map(|s| s.3.records.iter().filter(|r| r.header.lsn.0 > from).count()).sum();
    let torn: u64 = image.scans.iter().map(|s| s.3.torn as u64).sum();
    let dirty = image.checkpoint.as_ref().map_or(0, |c| c.inodes.len());
    let clean = image.damage.is_empty() && image.checkpoint.is_some() && image.checkpoint_damage.is_none();
    if as_json {
        let damage: Vec<_> = image
            .damage
            .iter()
            .map(|d| json!({"segment": d.segment.0, "start": d.start, "end": d.end, "what": d.what, "mended": d.mended}))
            .collect();
        let v = json!({
            "version": 1, "clean": clean, "checkpoint_lsn": from, "segments": image.scans.len(),
            "records": records, "records_to_replay": waiting, "torn_bytes": torn,
            "dirty_inodes": dirty, "damage": damage, "checkpoint_damage": image.checkpoint_damage,
        });
        return Ok((v.to_string(), clean));
    }
    let mut out = format!(
        "{}: {} segments, {records} records, {waiting} after the checkpoint at {from}, {dirty} inodes not drained\n",
        log_dir.display(),
        image.scans.len()
    );
    if torn > 0 {
        out += &format!("torn tails: {torn} bytes (never acknowledged as durable)\n");
    }
    for d in &image.damage {
        out += &format!("DAMAGE: segment {} at {}..{}: {}\n", d.segment.0, d.start, d.end, d.what);
    }
    if let Some(e) = &image.checkpoint_damage {
        out += &format!("DAMAGE: {e}; the other copy of the checkpoint is whole\n");
    }
    if image.checkpoint.is_none() {
        out += "DAMAGE: there is no checkpoint\n";
    }
    out +=
        if clean { "clean" } else { "damaged: mount it to recover the rest; what is named above gives EIO" };
    Ok((out, clean))
}

/// Records as JSON lines, in the order of their numbers.
pub fn dump(log_dir: &Path, out: &mut dyn Write) -> Result<(), String> {
    let disk = open(log_dir)?;
    let image = read_log(&disk)?;
    let mut records: Vec<_> =
        image.scans.iter().flat_map(|s| s.3.records.iter().map(move |r| (s.0, r))).collect();
    records.sort_by_key(|r| r.1.header.lsn);
    for (segment, r) in records {
        let h = &r.header;
        let what = match Mutation::decode(h.kind, &r.body) {
            Ok(m) => format!("{m:?}"),
            Err(e) => format!("unreadable: {e}"),
        };
        let line = json!({
            "lsn": h.lsn.0, "segment": segment.0, "generation": h.generation, "at": r.record_at,
            "client": format!("{}:{}", h.pid, h.start), "wall_ns": h.wall_ns,
            "predecessors": r.predecessors.iter().map(|p| p.0).collect::<Vec<_>>(),
            "data_bytes": h.data_bytes, "data_sound": r.data_sound, "mutation": what,
        });
        writeln!(out, "{line}").map_err(|e| format!("writing failed: {e}"))?;
    }
    Ok(())
}
