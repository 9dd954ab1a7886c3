//! Uploads in parts.

use super::client::{Body, Expect, Request, Store, content_type, source};
use super::error::told;
use super::links::encoded;
use super::meta::Meta;
use super::stage::fresh;
use aws_config::retry::RetryConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use std::io;

/// The store has no copies of ranges, or says nothing of them that could be used.
pub fn is_unsupported(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::Unsupported
}

impl Store {
    /// Notes the key where it is found after a death, then begins an upload. Returns its id and the note's key.
    pub async fn begin_noted(&self, key: &str, meta: &Meta) -> io::Result<(String, String)> {
        let path = key.strip_prefix(&self.base).unwrap_or(key);
        let note = self.key(&format!(".forelog/uploads/{:016x}", fresh()?));
        let body = Body::from(encoded(path.as_bytes()).into_bytes());
        self.put(&note, None, body, &Expect::Any).await?;
        Ok((self.begin(key, meta).await?, note))
    }

    /// Begins an upload; returns its id. Tried once: if the answer was lost, another try would begin a second one, and
    /// nobody would know the first; as it is, the note stays, by which it is ended.
    pub async fn begin(&self, key: &str, meta: &Meta) -> io::Result<String> {
        self.fence.check()?;
        self.count(Request::Multipart);
        let [kind, encoding, language, disposition, cache] = &meta.headers;
        let sent = self
            .client
            .create_multipart_upload()
            .bucket(&self.url.bucket)
            .key(key)
            .set_metadata(Some(meta.write()))
            .set_content_type(Some(content_type(meta, kind)))
            .set_content_encoding(encoding.clone())
            .set_content_language(language.clone())
            .set_content_disposition(disposition.clone())
            .set_cache_control(cache.clone())
            .customize()
            .config_override(aws_sdk_s3::Config::builder().retry_config(RetryConfig::disabled()))
            .send()
            .await
            .map_err(|e| told("beginning the upload of", key, e))?;
        sent.upload_id()
            .map(Into::into)
            .ok_or_else(|| io::Error::other(format!("beginning the upload of {key}: the store gave no id")))
    }

    /// Uploads one part; returns its version.
    pub async fn part(&self, key: &str, id: &str, n: i32, body: Vec<u8>) -> io::Result<String> {
        let _room = self.pace.room(body.len()).await;
        self.fence.check()?;
        self.count(Request::Part);
        let sent = self
            .client
            .upload_part()
            .bucket(&self.url.bucket)
            .key(key)
            .upload_id(id)
            .part_number(n)
            .body(ByteStream::from(body))
            .customize()
            .config_override(Self::bodied())
            .send()
            .await
            .map_err(|e| told(&format!("uploading part {n} of"), key, e))?;
        Ok(sent.e_tag().unwrap_or_default().to_owned())
    }

    /// Makes a range of an object that has this version one part. Errors: `Unsupported` where the store cannot.
    pub async fn part_copy(
        &self,
        key: &str,
        id: &str,
        n: i32,
        from: (&str, &str),
        range: (u64, u64),
    ) -> io::Result<String> {
        self.fence.check()?;
        self.count(Request::PartCopy);
        let sent = self
            .client
            .upload_part_copy()
            .bucket(&self.url.bucket)
            .key(key)
            .upload_id(id)
            .part_number(n)
            .copy_source(source(&self.url.bucket, from.0))
            .copy_source_if_match(format!("\"{}\"", from.1))
            .copy_source_range(format!("bytes={}-{}", range.0, range.1 - 1))
            .customize()
            .config_override(Self::bodied())
            .send()
            .await;
        let none = || io::Error::from(io::ErrorKind::Unsupported);
        match sent {
            Ok(s) => s
                .copy_part_result()
                .and_then(|r| r.e_tag())
                .filter(|e| !e.is_empty())
                .map(Into::into)
                .ok_or_else(none),
            Err(e) if e.raw_response().is_some_and(|r| r.status().as_u16() == 501) => Err(none()),
            Err(e) => Err(told(&format!("copying part {n} of"), key, e)),
        }
    }

    /// Makes the parts, numbered from 1, the object. Returns its version.
    pub async fn complete(
        &self,
        key: &str,
        id: &str,
        parts: &[String],
        expect: &Expect,
    ) -> io::Result<String> {
        self.fence.check()?;
        self.count(Request::Multipart);
        let (matching, none) = self.conditions(expect);
        let part =
            |(n, e): (usize, &String)| CompletedPart::builder().part_number(n as i32 + 1).e_tag(e).build();
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.iter().enumerate().map(part).collect()))
            .build();
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.url.bucket)
            .key(key)
            .upload_id(id)
            .multipart_upload(all)
            .set_if_match(matching)
            .set_if_none_match(none)
            .customize()
            .config_override(Self::bodied())
            .send()
            .await
            .map_err(|e| told("completing", key, e))?;
        Ok(sent.e_tag().unwrap_or_default().trim_matches('"').to_owned())
    }

    /// Gives an upload up; fine if it is gone.
    pub async fn abort(&self, key: &str, id: &str) -> io::Result<()> {
        self.fence.check()?;
        self.count(Request::Multipart);
        let r = self.client.abort_multipart_upload().bucket(&self.url.bucket).key(key).upload_id(id);
        match r.send().await {
            Ok(_) => Ok(()),
            Err(e) => match told("giving up the upload of", key, e) {
                e if e.kind() == io::ErrorKind::NotFound => Ok(()),
                e => Err(e),
            },
        }
    }

    /// Open uploads to this very key.
    pub async fn uploads(&self, key: &str) -> io::Result<Vec<String>> {
        self.count(Request::List);
        let (mut ids, mut marks) = (Vec::new(), (None, None));
        loop {
            let sent = self
                .client
                .list_multipart_uploads()
                .bucket(&self.url.bucket)
                .prefix(key)
                .set_key_marker(marks.0)
                .set_upload_id_marker(marks.1)
                .send()
                .await;
            let page = match sent.map_err(|e| told("listing the uploads of", key, e)) {
                // Then there is nothing to be ended.
                Err(e) if is_unsupported(&e) => return Ok(ids),
                other => other?,
            };
            let ours = page.uploads().iter().filter(|u| u.key() == Some(key));
            ids.extend(ours.filter_map(|u| u.upload_id()).map(str::to_owned));
            marks = (page.next_key_marker().map(Into::into), page.next_upload_id_marker().map(Into::into));
            if !page.is_truncated().unwrap_or(false) || marks.0.is_none() {
                return Ok(ids);
            }
        }
    }
}
