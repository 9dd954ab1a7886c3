//! The store's clock, as far as its answers tell it: so it is known whether an object was old when it was asked for.

use super::client::Store;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// See the module. The latest `Date` of any answer, in whole seconds; 0: none said.
#[derive(Clone, Debug, Default)]
pub struct StoreClock(Arc<AtomicI64>);

impl StoreClock {
    /// It is at least this late there.
    pub fn at_least(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Intercept for StoreClock {
    fn name(&self) -> &'static str {
        "StoreClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let said = context.response().headers().get("date");
        if let Some(t) = said.and_then(|d| DateTime::from_str(d, DateTimeFormat::HttpDate).ok()) {
            self.0.fetch_max(t.secs(), Ordering::AcqRel);
        }
        Ok(())
    }
}

impl Store {
    /// Which bucket of which store this is, and who owns what says no owner.
    pub fn scope(&self) -> String {
        let said = |n: &str| std::env::var(n).unwrap_or_default();
        let place = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_PROFILE"].map(said);
        format!("{} {place:?} {:?}", self.url, self.owner)
    }
}
