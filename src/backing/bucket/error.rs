//! What a store refused or failed to do, as one line that says what, on which key, why, and what helps.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::io::{Error, ErrorKind};

/// A conditional write found something else than it was to replace.
pub const CHANGED: ErrorKind = ErrorKind::ResourceBusy;

/// What the store refuses of one key, while it may take others.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// An error as of a request that the store refused.
pub fn refused(kind: ErrorKind, text: String) -> Error {
    Error::new(kind, Refused(text))
}

/// The same error once more, for another who waited.
pub fn again(e: &Error) -> Error {
    if is_refused(e) { refused(e.kind(), e.to_string()) } else { Error::new(e.kind(), e.to_string()) }
}

/// Whether the store answered, and refused this very request. Others may go on.
pub fn is_refused(e: &Error) -> bool {
    e.get_ref().is_some_and(|e| e.is::<Refused>())
}

/// Whether an answer is about the request alone, not about the bucket or who asks.
fn is_of_one_key(code: &str, status: u16) -> bool {
    let of_all = [
        "NoSuchBucket",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "TokenRefreshRequired",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "RequestTimeout",
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "AccountProblem",
        "AllAccessDisabled",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
    ];
    (400..500).contains(&status) && ![404, 408, 409, 412, 429].contains(&status) && !of_all.contains(&code)
}

/// An error of the store as one of the system's kinds. `what`: `storing`, `key`: of what.
pub fn told<E>(what: &str, key: &str, e: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = e.raw_response().map_or(0, |r| r.status().as_u16());
    let code = e.code().unwrap_or_default().to_owned();
    let (kind, why) = match (&e, reason(&code, status)) {
        (_, Some(r)) => r,
        (SdkError::TimeoutError(_), _) => {
            (ErrorKind::TimedOut, "the store did not answer in time".to_owned())
        }
        (SdkError::DispatchFailure(d), _) if d.is_timeout() => {
            (ErrorKind::TimedOut, "the store did not answer in time".to_owned())
        }
        (SdkError::DispatchFailure(d), _) => {
            let whole = d.as_connector_error().map(|e| deepest(e)).unwrap_or_default();
            if whole.contains("credentials") {
                let text = format!("{what} {key}: {}", credentials(&e));
                return Error::new(ErrorKind::PermissionDenied, text);
            }
            let hint = "is it up, and is AWS_ENDPOINT_URL right?";
            (ErrorKind::NotConnected, format!("the store cannot be reached ({whole}); {hint}"))
        }
        (SdkError::ResponseError(_), _) => {
            let text = format!("the store's answer cannot be understood ({})", deepest(&e));
            (ErrorKind::Unsupported, text)
        }
        (_, None) if code.is_empty() && (200..300).contains(&status) => {
            let text = format!("the store's answer cannot be understood ({})", deepest(&e));
            (ErrorKind::Unsupported, text)
        }
        (_, None) if code.is_empty() && status == 0 => (ErrorKind::Other, credentials(&e)),
        (_, None) => {
            let text = e.message().unwrap_or("no further word");
            (ErrorKind::Other, format!("the store said {status} {code}: {text}"))
        }
    };
    let text = format!("{what} {key}: {why}");
    match is_of_one_key(&code, status) {
        true => refused(kind, text),
        false => Error::new(kind, text),
    }
}

fn deepest(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

/// Nothing was sent: mostly because there is nothing to sign with.
fn credentials(e: &dyn std::error::Error) -> String {
    let whole = DisplayErrorContext(e).to_string();
    match whole.contains("credential") {
        true => "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where the \
                 instance has some"
            .into(),
        false => whole,
    }
}

fn reason(code: &str, status: u16) -> Option<(ErrorKind, String)> {
    use ErrorKind::{NotFound, Other, PermissionDenied};
    let say = |kind, text: &str| Some((kind, text.to_owned()));
    match (code, status) {
        ("NoSuchBucket", _) => say(Other, "there is no such bucket: make it first, or correct the name"),
        ("NoSuchKey" | "NotFound", _) | ("", 404) => say(NotFound, "not there"),
        ("NoSuchUpload", _) => say(NotFound, "the upload is gone"),
        ("PreconditionFailed", _) | ("ConditionalRequestConflict", _) | (_, 412) => {
            say(CHANGED, "something else changed it meanwhile")
        }
        ("InvalidAccessKeyId", _) => say(
            PermissionDenied,
            "the store does not know the access key: check AWS_ACCESS_KEY_ID or the profile",
        ),
        ("SignatureDoesNotMatch", _) => {
            say(PermissionDenied, "the secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile")
        }
        ("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken", _) => {
            say(PermissionDenied, "the credentials have expired: get new ones")
        }
        ("RequestTimeTooSkewed" | "RequestExpired", _) => {
            say(PermissionDenied, "this machine's clock and the store's differ too much: set the clock")
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, 301) => say(Other, "the bucket is in another region: set AWS_REGION to it"),
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | ("", 403) => {
            say(PermissionDenied, "the store denies it: the credentials are wrong or lack the permission")
        }
        ("SlowDown" | "ServiceUnavailable" | "Throttling" | "TooManyRequests", _) | (_, 429) => {
            say(ErrorKind::TimedOut, "the store asks to slow down")
        }
        ("NotImplemented", _) => say(ErrorKind::Unsupported, "the store cannot do that"),
        ("EntityTooLarge", _) => say(ErrorKind::FileTooLarge, "the store takes no object so large"),
        ("KeyTooLongError", _) => say(ErrorKind::InvalidFilename, "the store takes no key so long"),
        _ => None,
    }
}

/// Whether it is about the one key, and trying it again changes nothing.
pub fn is_changed(e: &Error) -> bool {
    e.kind() == CHANGED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_has_its_kind() {
        let kind = |code, status| reason(code, status).map(|r| r.0);
        assert_eq!(kind("NoSuchKey", 404), Some(ErrorKind::NotFound));
        assert_eq!(kind("", 404), Some(ErrorKind::NotFound));
        assert_eq!(
            kind("NoSuchBucket", 404),
            Some(ErrorKind::Other),
            "no file is gone because its bucket is"
        );
        assert_eq!(kind("", 403), Some(ErrorKind::PermissionDenied));
        assert_eq!(kind("ConditionalRequestConflict", 409), Some(CHANGED));
        assert_eq!(kind("", 412), Some(CHANGED));
        assert_eq!(kind("InternalError", 500), None);
        assert!(
            is_of_one_key("AccessDenied", 403)
                && is_of_one_key("", 403)
                && is_of_one_key("KeyTooLongError", 400)
        );
        for (code, status) in
            [("InvalidAccessKeyId", 403), ("ExpiredToken", 400), ("SlowDown", 503), ("", 412), ("", 301)]
        {
            assert!(!is_of_one_key(code, status), "{code}");
        }
    }
}
