//! Reading a range as it comes: in blocks, each given away as soon as it is whole.

use super::client::{BODY_WHOLE, Request, Store};
use super::error::told;
use std::io;
use std::time::Duration;

/// How long no byte may come.
const SILENCE: Duration = Duration::from_secs(11);

impl Store {
    /// A range of an object that has this version, in blocks of `block` bytes, the last one shorter. Errors: of the
    /// store, or fewer bytes came; the blocks given until then are right.
    pub async fn get_in_blocks(
        &self,
        key: &str,
        etag: &str,
        (start, end): (u64, u64),
        block: u64,
        mut each: impl FnMut(u64, Vec<u8>),
    ) -> io::Result<()> {
        self.count(Request::Get);
        let r = self.client.get_object().bucket(&self.url.bucket).key(key).if_match(format!("\"{etag}\""));
        let r = r.range(format!("bytes={start}-{}", end.saturating_sub(1)));
        let mut answer = r.send().await.map_err(|e| told("reading", key, e))?;
        let whole = answer.content_length().and_then(|n| u64::try_from(n).ok()) == Some(end - start);
        // A store may ignore the range, and begin at the start.
        let mut skip = if whole || answer.content_range().is_some() { 0 } else { start };
        let (mut at, mut n) = (start, 0);
        let size = |at: u64| block.min(end - at) as usize;
        let mut bytes: Vec<u8> = Vec::with_capacity(size(at));
        let comes = async {
            while at < end {
                let part = match tokio::time::timeout(SILENCE, answer.body.next()).await {
                    Err(_) => {
                        let text = format!("reading {key}: the store is too slow");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    Ok(None) => {
                        let text =
                            format!("reading {key}: {} bytes of {} did not come", end - at, end - start);
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                    }
                    Ok(Some(Err(e))) => {
                        let text = format!("reading {key}: the answer broke off: {e}");
                        return Err(io::Error::new(io::ErrorKind::ConnectionReset, text));
                    }
                    Ok(Some(Ok(part))) => part,
                };
                let skipped = skip.min(part.len() as u64);
                skip -= skipped;
                let mut part = &part[skipped as usize..];
                while !part.is_empty() && at < end {
                    let take = (size(at) - bytes.len()).min(part.len());
                    bytes.extend_from_slice(&part[..take]);
                    part = &part[take..];
                    if bytes.len() == size(at) {
                        at += bytes.len() as u64;
                        let next = if at < end { Vec::with_capacity(size(at)) } else { Vec::new() };
                        each(n, std::mem::replace(&mut bytes, next));
                        n += 1;
                    }
                }
            }
            Ok(())
        };
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("reading {key}: the store is too slow"));
        tokio::time::timeout(BODY_WHOLE, comes).await.map_err(late)?
    }
}
