//! Requests signed as AWS wants it (Signature Version 4), with the credentials that S3 is reached with, or others.

use super::http::Call;
use crate::storage::{AwsCredentials, explain};
use crate::{Error, Kind, Result};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use std::time::SystemTime;

/// Signs for one service in one region.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    /// Name of the service in signatures.
    pub(crate) service: String,
    /// Region.
    pub(crate) region: String,
    /// Who asks.
    pub(crate) credentials: AwsCredentials,
}

impl Signer {
    /// The headers that are to be added to `call`.
    pub(crate) async fn sign(&self, call: &Call) -> Result<Vec<(String, String)>> {
        let given = self.credentials.get_credential().await.map_err(|e| explain(e, "sign a request to the catalog", ""))?;
        let identity = Credentials::new(&given.key_id, &given.secret_key, given.token.clone(), None, "lakeward").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let bug = |e: Box<dyn std::error::Error + Send + Sync>| Error::new(Kind::Bug, "cannot sign a request").because(e);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|e| bug(e.into()))?
            .into();
        let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(call.method.as_str(), call.url.as_str(), headers, SignableBody::Bytes(&call.body));
        let signed = sign(request.map_err(|e| bug(e.into()))?, &params).map_err(|e| bug(e.into()))?;
        Ok(signed.into_parts().0.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
