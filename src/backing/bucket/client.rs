//! The store's requests, each counted, bounded in time and tried again a few times with jittered waits. Everything
//! of the SDK and its runtime is here and in `multipart`, `download` and `wall`.

use super::error::told;
use super::markers::Markers;
use super::meta::{DIRECTORY_TYPE, Found, Meta};
use super::paced::{self, Pace};
use super::threads::Threads;
use super::wall::StoreClock;
use crate::backing::fence::{self, CHANGE, Fence, Times};
use crate::config::BucketUrl;
use crate::types::{Kind, Stamp};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{EncodingType, MetadataDirective};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One try, and all tries together, of a request without a body worth speaking of.
const ATTEMPT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(11);
/// One try of a request with a body. A lease is taken over only later than its last request can end.
const BODY_ATTEMPT: Duration = Duration::from_secs(30);
pub(super) const BODY_WHOLE: Duration = CHANGE;

/// The bucket is there if it took or gave something so lately.
const SURE_NS: u64 = 200_000_000;

const SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// What is stored in one request; shared, never copied.
pub type Body = bytes::Bytes;

/// Kinds of requests, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Get,
    Head,
    List,
    Put,
    Copy,
    Delete,
    Multipart,
    Part,
    PartCopy,
}

pub const REQUESTS: [(Request, &str); 9] = [
    (Request::Get, "get"),
    (Request::Head, "head"),
    (Request::List, "list"),
    (Request::Put, "put"),
    (Request::Copy, "copy"),
    (Request::Delete, "delete"),
    (Request::Multipart, "multipart"),
    (Request::Part, "part"),
    (Request::PartCopy, "part_copy"),
];

/// What a write expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    Nothing,
    Etag(String),
    Any,
}

/// An object as a request for it tells.
#[derive(Clone, Debug)]
pub struct Seen {
    pub etag: String,
    pub size: u64,
    pub modified: i64,
    pub meta: Meta,
}

/// A line of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    pub key: String,
    pub etag: String,
    pub size: u64,
    pub modified: i64,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    pub folders: Vec<String>,
    pub next: Option<String>,
}

/// A bucket and how to reach it.
pub struct Store {
    pub(super) runtime: Threads,
    pub(super) client: Client,
    pub pace: Arc<Pace>,
    pub url: BucketUrl,
    /// What every key of ours begins with.
    pub base: String,
    /// Owner of what says no owner.
    pub owner: (u32, u32),
    pub fence: Fence,
    /// The store obeys If-Match and If-None-Match.
    pub conditions: std::sync::OnceLock<bool>,
    pub markers: std::sync::OnceLock<Markers>,
    /// Directories known by what lies beside, where the store takes no markers.
    pub dirs: Mutex<BTreeSet<String>>,
    /// Directories that are gone, and that such a store still lists.
    pub shadows: Mutex<BTreeSet<String>>,
    /// The store's clock, as its answers told it.
    pub(super) wall: StoreClock,
    counts: [AtomicU64; REQUESTS.len()],
}

/// A copy-source header's value.
pub fn source(bucket: &str, key: &str) -> String {
    format!("{}/{}", utf8_percent_encode(bucket, SOURCE), utf8_percent_encode(key, SOURCE))
}

fn etag(e: Option<&str>) -> String {
    e.unwrap_or_default().trim_matches('"').to_owned()
}

fn quoted(e: &str) -> String {
    format!("\"{e}\"")
}

/// Keys of a listing come percent-encoded, a space in some stores as `+`.
fn decoded(key: &str) -> Option<String> {
    percent_decode_str(&key.replace('+', " ")).decode_utf8().ok().map(Into::into)
}

fn seconds(t: Option<&DateTime>) -> i64 {
    t.map_or(0, DateTime::secs)
}

async fn client(wall: StoreClock, pace: Arc<Pace>) -> Result<Client, String> {
    let mut trust = TrustStore::default();
    if let Some(file) = std::env::var_os("AWS_CA_BUNDLE") {
        let file = std::path::PathBuf::from(file);
        let pem =
            crate::sys::files::read(&file).map_err(|e| format!("AWS_CA_BUNDLE {}: {e}", file.display()))?;
        trust = trust.with_pem_certificate(pem);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|e| format!("setting up TLS failed: {e}"))?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https();
    let http = paced::client(http, pace);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(3100))
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(WHOLE)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(4)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(2));
    let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries)
        .load()
        .await;
    let asked = std::env::var_os("AWS_ENDPOINT_URL").or(std::env::var_os("AWS_ENDPOINT_URL_S3"));
    let own_endpoint = shared.endpoint_url().is_some() || asked.is_some();
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(own_endpoint)
        .interceptor(wall)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if shared.region().is_none() {
        config = config.region(aws_config::Region::new("us-east-1"));
    }
    Ok(Client::from_conf(config.build()))
}

impl Store {
    /// Sets the client up; nothing is asked of the store yet.
    pub fn open(url: &BucketUrl, owner: (u32, u32)) -> Result<Store, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(|e| format!("starting the client's threads failed: {e}"))?;
        let (wall, pace) = (StoreClock::default(), Arc::<Pace>::default());
        let client = runtime.block_on(client(wall.clone(), pace.clone()))?;
        let base = if url.prefix.is_empty() { String::new() } else { format!("{}/", url.prefix) };
        Ok(Store {
            runtime: runtime.into(),
            client,
            pace,
            url: url.clone(),
            base,
            owner,
            fence: Fence::new(Times::new((BODY_WHOLE / fence::haste()).max(WHOLE))),
            conditions: Default::default(),
            markers: Default::default(),
            dirs: Mutex::default(),
            shadows: Mutex::default(),
            wall,
            counts: Default::default(),
        })
    }

    /// Waits for what the client does. Not to be called on its own threads.
    pub fn wait<T>(&self, f: impl Future<Output = T>) -> T {
        self.runtime.block_on(f)
    }

    pub(super) fn count(&self, r: Request) {
        self.counts[r as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far, by kind.
    pub fn requests(&self) -> Vec<(String, u64)> {
        REQUESTS
            .iter()
            .map(|(r, n)| ((*n).to_owned(), self.counts[*r as usize].load(Ordering::Relaxed)))
            .collect()
    }

    pub(super) fn bodied() -> aws_sdk_s3::config::Builder {
        let slow = TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(3100))
            .operation_attempt_timeout(BODY_ATTEMPT / fence::haste())
            .operation_timeout(BODY_WHOLE / fence::haste())
            .build();
        aws_sdk_s3::Config::builder().timeout_config(slow)
    }

    /// Whether conditions are of use here, as values of two headers.
    pub(super) fn conditions(&self, expect: &Expect) -> (Option<String>, Option<String>) {
        match (expect, self.conditions.get()) {
            (_, Some(false)) | (Expect::Any, _) => (None, None),
            (Expect::Nothing, _) => (None, Some("*".into())),
            (Expect::Etag(e), _) => (Some(quoted(e)), None),
        }
    }

    /// What an object is; `None`: it is not there.
    pub async fn head(&self, key: &str) -> io::Result<Option<Seen>> {
        self.head_as(key, key).await
    }

    /// As `head`, with metadata that is about another key.
    pub(super) async fn head_as(&self, key: &str, about: &str) -> io::Result<Option<Seen>> {
        self.count(Request::Head);
        match self.client.head_object().bucket(&self.url.bucket).key(key).send().await {
            Ok(o) => {
                let none = HashMap::new();
                let header = |h: Option<&str>| h.filter(|v| !v.is_empty()).map(str::to_owned);
                let headers = [
                    header(o.content_type()),
                    header(o.content_encoding()),
                    header(o.content_language()),
                    header(o.content_disposition()),
                    header(o.cache_control()),
                ];
                let (etag, modified) = (etag(o.e_tag()), seconds(o.last_modified()));
                let found =
                    Found { key: about, etag: &etag, modified: Stamp { secs: modified, nanos: 0 }, headers };
                let meta = Meta::read(found, o.metadata().unwrap_or(&none), self.owner.0, self.owner.1);
                let size = o.content_length().unwrap_or(0).max(0) as u64;
                Ok(Some(Seen { etag, size, modified, meta }))
            }
            Err(e) => match told("looking at", key, e) {
                e if e.kind() == io::ErrorKind::NotFound => {
                    // That looks the same when the whole bucket is gone.
                    if self.pace.quiet_ns() > SURE_NS {
                        self.list(key, true, None).await?;
                    }
                    Ok(None)
                }
                e => Err(e),
            },
        }
    }

    /// A range of an object, if it still has this version.
    pub async fn get(&self, key: &str, etag: Option<&str>, range: Option<(u64, u64)>) -> io::Result<Vec<u8>> {
        self.count(Request::Get);
        let mut r = self.client.get_object().bucket(&self.url.bucket).key(key);
        if let Some(e) = etag {
            r = r.if_match(quoted(e));
        }
        if let Some((start, end)) = range {
            r = r.range(format!("bytes={start}-{}", end.saturating_sub(1)));
        }
        let answer = r.send().await.map_err(|e| told("reading", key, e))?;
        let broke = |e: aws_sdk_s3::primitives::ByteStreamError| {
            io::Error::new(
                io::ErrorKind::ConnectionReset,
                format!("reading {key}: the answer broke off: {e}"),
            )
        };
        let took = tokio::time::timeout(WHOLE, answer.body.collect()).await;
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("reading {key}: the store is too slow"));
        let mut bytes = took.map_err(late)?.map_err(broke)?.to_vec();
        // A store may ignore the range.
        if let Some((start, end)) = range
            && bytes.len() as u64 > end - start
        {
            bytes = bytes.get(start as usize..(end as usize).min(bytes.len())).unwrap_or_default().to_vec();
        }
        Ok(bytes)
    }

    /// A part of the listing of what begins with `prefix`, below each further slash only its name.
    pub async fn list(&self, prefix: &str, flat: bool, after: Option<&str>) -> io::Result<Page> {
        self.count(Request::List);
        let mut r = self.client.list_objects_v2().bucket(&self.url.bucket).prefix(prefix);
        r = r.encoding_type(EncodingType::Url).set_continuation_token(after.map(Into::into));
        if !flat {
            r = r.delimiter("/");
        }
        let p = r.send().await.map_err(|e| told("listing", &format!("{prefix}*"), e))?;
        let encoded = p.encoding_type() == Some(&EncodingType::Url);
        let name = |k: Option<&str>| match encoded {
            true => k.and_then(decoded),
            false => k.map(Into::into),
        };
        let object = |o: &aws_sdk_s3::types::Object| {
            let key = name(o.key())?;
            let size = o.size().unwrap_or(0).max(0) as u64;
            Some(Listed { key, etag: etag(o.e_tag()), size, modified: seconds(o.last_modified()) })
        };
        let next = match p.is_truncated().unwrap_or(false) {
            true => Some(p.next_continuation_token().map(Into::into).ok_or_else(|| {
                io::Error::other(format!("listing {prefix}*: the store sent a part and no way on"))
            })?),
            false => None,
        };
        Ok(Page {
            objects: p.contents().iter().filter_map(object).collect(),
            folders: p.common_prefixes().iter().filter_map(|c| name(c.prefix())).collect(),
            next,
        })
    }

    /// The whole listing below a prefix.
    pub async fn list_all(&self, prefix: &str, flat: bool) -> io::Result<Page> {
        let mut all = Page::default();
        loop {
            let page = self.list(prefix, flat, all.next.as_deref()).await?;
            all.objects.extend(page.objects);
            all.folders.extend(page.folders);
            if page.next.is_none() || page.next == all.next {
                all.next = None;
                return Ok(all);
            }
            all.next = page.next;
        }
    }

    /// Puts a whole object. Returns its version.
    pub async fn put(
        &self,
        key: &str,
        meta: Option<&Meta>,
        body: Body,
        expect: &Expect,
    ) -> io::Result<String> {
        let _room = self.pace.room(body.len()).await;
        self.fence.check()?;
        self.put_unfenced(key, meta, body, expect).await
    }

    pub(super) async fn put_unfenced(
        &self,
        key: &str,
        meta: Option<&Meta>,
        body: Body,
        expect: &Expect,
    ) -> io::Result<String> {
        self.count(Request::Put);
        let (matching, none) = self.conditions(expect);
        let mut r = self
            .client
            .put_object()
            .bucket(&self.url.bucket)
            .key(key)
            .body(ByteStream::from(body))
            .set_if_match(matching)
            .set_if_none_match(none);
        if let Some(m) = meta {
            let [kind, encoding, language, disposition, cache] = &m.headers;
            r = r
                .set_metadata(Some(m.write()))
                .set_content_type(Some(content_type(m, kind)))
                .set_content_encoding(encoding.clone())
                .set_content_language(language.clone())
                .set_content_disposition(disposition.clone())
                .set_cache_control(cache.clone());
        }
        let sent = r.customize().config_override(Self::bodied()).send().await;
        Ok(etag(sent.map_err(|e| told("storing", key, e))?.e_tag()))
    }

    /// Copies an object that has this version, with new metadata. Returns the copy's version.
    pub async fn copy(&self, from: &str, etag_of: &str, to: &str, meta: &Meta) -> io::Result<String> {
        self.fence.check()?;
        self.count(Request::Copy);
        let [kind, encoding, language, disposition, cache] = &meta.headers;
        let sent = self
            .client
            .copy_object()
            .bucket(&self.url.bucket)
            .key(to)
            .copy_source(source(&self.url.bucket, from))
            .set_copy_source_if_match((!etag_of.is_empty()).then(|| quoted(etag_of)))
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(meta.write()))
            .set_content_type(Some(content_type(meta, kind)))
            .set_content_encoding(encoding.clone())
            .set_content_language(language.clone())
            .set_content_disposition(disposition.clone())
            .set_cache_control(cache.clone())
            .customize()
            .config_override(Self::bodied())
            .send()
            .await
            .map_err(|e| told("copying", from, e))?;
        Ok(etag(sent.copy_object_result().and_then(|r| r.e_tag())))
    }

    /// Removes an object; fine if it is not there.
    pub async fn delete(&self, key: &str, expect: &Expect) -> io::Result<()> {
        self.fence.check()?;
        self.delete_unfenced(key, expect).await
    }

    pub(super) async fn delete_unfenced(&self, key: &str, expect: &Expect) -> io::Result<()> {
        self.count(Request::Delete);
        let (matching, _) = self.conditions(expect);
        let r = self.client.delete_object().bucket(&self.url.bucket).key(key).set_if_match(matching);
        match r.send().await {
            Ok(_) => Ok(()),
            Err(e) => match told("removing", key, e) {
                e if e.kind() == io::ErrorKind::NotFound => Ok(()),
                e => Err(e),
            },
        }
    }
}

/// As it was, or what the kind of object asks for.
pub(super) fn content_type(m: &Meta, kept: &Option<String>) -> String {
    match (m.kind, kept) {
        (Kind::Dir, _) => DIRECTORY_TYPE.into(),
        (_, Some(kept)) => kept.clone(),
        (_, None) => "application/octet-stream".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_coded() {
        assert_eq!(source("b", "a b/ü+&?"), "b/a%20b/%C3%BC%2B%26%3F");
        assert_eq!(decoded("a+b%2Bc%20d%0A").as_deref(), Some("a b+c d\n"));
        assert_eq!(decoded("%FF"), None);
    }

    #[test]
    fn kinds_are_counted_in_their_places() {
        for (i, (r, _)) in REQUESTS.iter().enumerate() {
            assert_eq!(*r as usize, i);
        }
    }
}
