//! What an object's metadata said, as bytes.

use crate::backing::bucket::meta::Meta;
use crate::format::codec::{Malformed, Reader, Writer};
use crate::types::{Kind, Stamp};

const VERSION: u8 = 1;
const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDev, Kind::BlockDev];

/// As bytes; `None`: it says more than is worth keeping.
pub fn write(m: &Meta) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(96);
    let mut w = Writer(&mut out);
    w.u8(VERSION);
    w.u8(KINDS.iter().position(|k| *k == m.kind)? as u8);
    w.u8(u8::from(m.xattrs));
    w.u64(m.id);
    w.u64(m.version);
    [m.mode, m.uid, m.gid, m.rdev].into_iter().for_each(|n| w.u32(n));
    for t in [m.mtime, m.atime] {
        w.i64(t.secs);
        w.u32(t.nanos);
    }
    let texts = m.other.iter().flat_map(|(k, v)| [k, v]).chain(m.headers.iter().flatten());
    if texts.map(String::len).sum::<usize>() > 8 << 10 {
        return None;
    }
    w.u16(m.other.len() as u16);
    for (k, v) in &m.other {
        w.bytes(k.as_bytes());
        w.bytes(v.as_bytes());
    }
    for h in &m.headers {
        w.u8(u8::from(h.is_some()));
        w.bytes(h.as_deref().unwrap_or_default().as_bytes());
    }
    Some(out)
}

/// From bytes; `None`: they are none of this version.
pub fn read(bytes: &[u8]) -> Option<Meta> {
    let mut r = Reader::new(bytes, "metadata");
    let m = fields(&mut r).ok().flatten()?;
    r.end().ok()?;
    Some(m)
}

fn fields(r: &mut Reader<'_>) -> Result<Option<Meta>, Malformed> {
    if r.u8()? != VERSION {
        return Ok(None);
    }
    let Some(&kind) = KINDS.get(usize::from(r.u8()?)) else { return Ok(None) };
    let xattrs = r.u8()? != 0;
    let (id, version) = (r.u64()?, r.u64()?);
    let (mode, uid, gid, rdev) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    let mut stamp = || Ok(Stamp { secs: r.i64()?, nanos: r.u32()? });
    let (mtime, atime) = (stamp()?, stamp()?);
    let text = |r: &mut Reader<'_>| Ok(String::from_utf8_lossy(r.bytes()?).into_owned());
    let n = r.u16()?;
    let other = (0..n).map(|_| Ok((text(r)?, text(r)?))).collect::<Result<_, _>>()?;
    let mut headers: [Option<String>; 5] = Default::default();
    for h in &mut headers {
        let there = r.u8()? != 0;
        let value = text(r)?;
        *h = there.then_some(value);
    }
    Ok(Some(Meta { id, version, kind, mode, uid, gid, rdev, mtime, atime, xattrs, other, headers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for kind in KINDS {
            let m = Meta {
                id: u64::MAX >> 2,
                version: 3,
                kind,
                mode: 0o4755,
                uid: 1,
                gid: u32::MAX,
                rdev: 5,
                mtime: Stamp { secs: -5, nanos: 999_999_999 },
                atime: Stamp { secs: i64::MAX, nanos: 0 },
                xattrs: kind == Kind::Dir,
                other: vec![("k".into(), "ü".into()), ("l".into(), String::new())],
                headers: [Some("a/b".into()), None, Some(String::new()), None, None],
            };
            let bytes = write(&m).unwrap();
            assert_eq!(read(&bytes).unwrap(), m);
            for n in 0..bytes.len() {
                assert!(read(&bytes[..n]).is_none(), "cut at {n}");
            }
            assert!(read(&[&bytes[..], &[0]].concat()).is_none());
            assert!(read(&[&[9], &bytes[1..]].concat()).is_none(), "another version");
        }
        let m = Meta {
            other: vec![("k".into(), "v".repeat(9000))],
            ..Meta::implicit("x", 0, 0, Stamp::default())
        };
        assert!(write(&m).is_none());
    }
}
