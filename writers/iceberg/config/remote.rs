//! Catalogs that are reached over HTTP, out of the keys: REST in its many forms, AWS Glue, S3 Tables.

use super::{IcebergConfig, first, wrong};
use crate::iceberg::catalog::Catalog;
use crate::iceberg::catalog::glue::Glue;
use crate::iceberg::catalog::google::ServiceAccount;
use crate::iceberg::catalog::http::{Http, url};
use crate::iceberg::catalog::rest::auth::{Auth, Grant, Issuer};
use crate::iceberg::catalog::rest::{Rest, RestOptions};
use crate::iceberg::catalog::s3tables::S3Tables;
use crate::iceberg::catalog::sigv4::Signer;
use crate::iceberg::io::Files;
use crate::storage::{S3Credentials, StoreOptions, default_region};
use crate::{Result, Secret};
use std::sync::Arc;

/// Catalogs that are called something else and are reached by Iceberg's REST protocol.
const REST: [&str; 6] = ["rest", "lakekeeper", "nessie", "unity", "polaris", "biglake"];

/// What `rest_auth_type` may be, as OLake's forms and Iceberg's own properties have it.
const AUTH_TYPES: &str = "none, token, oauth2, sigv4, google";

/// What Google is asked for, if nothing else is configured.
const GOOGLE_SCOPES: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Kinds of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthType {
    None,
    Token,
    OAuth2,
    SigV4,
    Google,
}

impl IcebergConfig {
    /// Checks the keys of such a catalog.
    pub(super) fn check_remote(&self) -> Result<()> {
        let kind = self.kind();
        if self.is_rest() {
            self.rest_url()?;
            self.auth_type()?;
            return self.google_account().map(drop);
        }
        match kind {
            "s3tables" => self.table_bucket().map(drop),
            _ => Ok(()),
        }
    }

    /// The catalog, if it is one of these. AWS is asked for the region at most.
    pub(super) async fn remote(&self, stores: StoreOptions) -> Result<Option<Catalog>> {
        Ok(Some(match self.kind() {
            _ if self.is_rest() => Catalog::Rest(Arc::new(self.rest(stores).await?)),
            "glue" => Catalog::Glue(Arc::new(self.glue(stores).await?)),
            "s3tables" => Catalog::S3Tables(Arc::new(self.s3tables(stores)?)),
            _ => return Ok(None),
        }))
    }

    /// AWS offers a REST catalog for table buckets as well.
    fn is_rest(&self) -> bool {
        REST.contains(&self.kind()) || self.kind() == "s3tables" && first(&[&self.rest_catalog_url]).is_some()
    }

    fn rest_url(&self) -> Result<&str> {
        let text = first(&[&self.rest_catalog_url]).ok_or_else(|| {
            wrong(format!("`rest_catalog_url` is empty, and the catalog_type {:?} is reached there", self.kind()))
                .hint("write https://host/path: what stands before /v1/config")
        })?;
        url("rest_catalog_url", text).map(|_| text)
    }

    fn auth_type(&self) -> Result<AuthType> {
        let written = self.rest_auth_type.as_deref().map(|text| text.trim().to_ascii_lowercase()).unwrap_or_default();
        let has = |key: &Option<Secret>| key.as_ref().is_some_and(|secret| !secret.is_empty());
        let auth = match written.as_str() {
            _ if self.kind() == "s3tables" => AuthType::SigV4,
            _ if self.kind() == "biglake" => AuthType::Google,
            "" if self.rest_signing_v_4 == Some(true) => AuthType::SigV4,
            "" if has(&self.credential) => AuthType::OAuth2,
            "" if has(&self.token) => AuthType::Token,
            "" => AuthType::None,
            "none" | "noauth" | "no auth" => AuthType::None,
            "token" | "bearer" | "pat" | "token federation" => AuthType::Token,
            // A token that was given is used as it is, also where a client could ask for one.
            "oauth2" | "oauth2 u2m" | "oauth2 m2m" | "u2m" | "m2m" if has(&self.credential) => AuthType::OAuth2,
            "oauth2" | "oauth2 u2m" | "oauth2 m2m" | "u2m" | "m2m" => AuthType::Token,
            "sigv4" => AuthType::SigV4,
            "google" | "gcp" => AuthType::Google,
            other => return Err(wrong(format!("`rest_auth_type` is {other:?}, accepted: {AUTH_TYPES}"))),
        };
        match auth {
            AuthType::OAuth2 if !has(&self.credential) => Err(wrong("OAuth2 needs a `credential`: client-id:client-secret")),
            AuthType::Token if !has(&self.token) => {
                Err(wrong("the catalog is to be asked with a token, and `token` is empty").hint("set `token`, or `credential` for OAuth2"))
            }
            AuthType::None if has(&self.token) || has(&self.credential) => {
                tracing::warn!("`rest_auth_type` is none: `token` and `credential` are not sent");
                Ok(auth)
            }
            _ => Ok(auth),
        }
    }

    fn google_account(&self) -> Result<Option<(ServiceAccount, String)>> {
        if self.auth_type()? != AuthType::Google {
            return Ok(None);
        }
        let json = self.gcp_service_account_json.as_ref().filter(|json| !json.is_empty()).ok_or_else(|| {
            wrong("Google is to admit this program, and `gcp_service_account_json` is empty")
                .hint("paste the JSON file of a service account's key; the machine's own identity is not supported")
        })?;
        let scopes = first(&[&self.gcp_auth_scopes]).unwrap_or(GOOGLE_SCOPES);
        let scopes: Vec<&str> = scopes.split([',', ' ']).filter(|scope| !scope.is_empty()).collect();
        ServiceAccount::new(json, &scopes.join(" ")).map(Some)
    }

    async fn rest(&self, stores: StoreOptions) -> Result<Rest> {
        let address = url("rest_catalog_url", self.rest_url()?)?;
        let auth = match self.auth_type()? {
            AuthType::None => Auth::None,
            AuthType::Token => Auth::Token(self.token.clone().unwrap_or_default()),
            AuthType::OAuth2 => Auth::Issued(self.oauth2(address.as_str())?),
            AuthType::SigV4 => Auth::Signed(self.rest_signer().await?),
            AuthType::Google => match self.google_account()? {
                Some((account, uri)) => Auth::Issued(Issuer::new(url("token_uri", &uri)?, Grant::Google(Box::new(account)))),
                None => Auth::None,
            },
        };
        let project = first(&[&self.gcp_project_id]).map(|project| ("x-goog-user-project".to_owned(), project.to_owned()));
        Rest::new(RestOptions {
            url: address,
            warehouse: first(&[&self.iceberg_s3_path, &self.s3_path]).map(str::to_owned),
            auth,
            headers: project.into_iter().collect(),
            namespace: self.namespace().unwrap_or_default().to_owned(),
            stores,
        })
    }

    fn oauth2(&self, address: &str) -> Result<Issuer> {
        let credential = self.credential.clone().unwrap_or_default();
        let (id, secret) = match credential.expose().trim().split_once(':') {
            Some((id, secret)) => (Some(id.to_owned()), Secret::new(secret)),
            None => (None, credential),
        };
        let uri = match first(&[&self.oauth2_uri]) {
            Some(uri) => url("oauth2_uri", uri)?,
            None => url("rest_catalog_url", &format!("{}/v1/oauth/tokens", address.trim_end_matches('/')))?,
        };
        let scope = first(&[&self.scope]).unwrap_or("catalog").to_owned();
        Ok(Issuer::new(uri, Grant::Client { id, secret, scope }))
    }

    async fn rest_signer(&self) -> Result<Signer> {
        let (name, bucket) = match self.kind() {
            "s3tables" => ("s3tables", self.table_bucket().ok()),
            _ => (first(&[&self.rest_signing_name]).unwrap_or("execute-api"), None),
        };
        let written = first(&[&self.rest_signing_region, &self.aws_region]).or(bucket.map(|(_, region)| region));
        let region = self.region(written, "`rest_signing_region` or `aws_region`").await?;
        let credentials = self.aws_credentials().provider(&region);
        Ok(Signer { service: name.to_owned(), region, credentials })
    }

    async fn region(&self, written: Option<&str>, keys: &str) -> Result<String> {
        match written {
            Some(region) => Ok(region.to_owned()),
            None => default_region(first(&[&self.aws_profile])).await.ok_or_else(|| {
                wrong("no AWS region is named, neither in the destination file nor in the environment").hint(format!("set {keys}"))
            }),
        }
    }

    async fn glue(&self, stores: StoreOptions) -> Result<Glue> {
        let own = self.glue_additional_config == Some(true);
        let keys = [&self.glue_access_key, &self.glue_secret_key].map(|key| key.as_ref().filter(|key| !key.is_empty()));
        let texts = [&self.glue_endpoint, &self.glue_region, &self.glue_catalog_id];
        if !own && (first(&texts).is_some() || keys.iter().any(Option::is_some)) {
            tracing::warn!("the `glue_` keys have no effect as long as `glue_additional_config` is not true");
        }
        let [endpoint, region, catalog_id] = texts.map(|text| first(&[text]).filter(|_| own));
        let region = self.region(region.or(first(&[&self.aws_region])), "`aws_region`, or `glue_region`").await?;
        let credentials = match keys {
            [Some(access), Some(secret)] if own => {
                S3Credentials::Keys { access: access.clone(), secret: secret.clone(), session: Secret::default() }
            }
            [None, None] => self.aws_credentials(),
            _ if own => return Err(wrong("`glue_access_key` and `glue_secret_key` belong together, and one of them is empty")),
            _ => self.aws_credentials(),
        };
        let endpoint = endpoint.map(str::to_owned).or_else(|| endpoint_of("GLUE")).unwrap_or_else(|| amazon("glue", &region));
        Ok(Glue {
            url: url("glue_endpoint", &endpoint)?,
            signer: Signer { service: "glue".to_owned(), credentials: credentials.provider(&region), region },
            catalog_id: catalog_id.map(str::to_owned),
            warehouse: first(&[&self.iceberg_s3_path, &self.s3_path]).map(|_| self.warehouse()).transpose()?,
            namespace: self.namespace().unwrap_or_default().to_owned(),
            files: Files::new(stores),
            http: Http::new()?,
        })
    }

    /// ARN of a table bucket, and its region.
    fn table_bucket(&self) -> Result<(&str, &str)> {
        let arn = first(&[&self.iceberg_s3_path, &self.s3_path]).unwrap_or_default();
        match arn.splitn(6, ':').collect::<Vec<_>>()[..] {
            ["arn", _, "s3tables", region, _, resource] if !region.is_empty() && resource.starts_with("bucket/") => Ok((arn, region)),
            _ => Err(wrong(format!("`iceberg_s3_path` is {arn:?}, which is no ARN of a table bucket"))
                .hint("write arn:aws:s3tables:<region>:<account>:bucket/<name>")),
        }
    }

    fn s3tables(&self, mut stores: StoreOptions) -> Result<S3Tables> {
        let (arn, region) = self.table_bucket()?;
        if let Some(s3) = &mut stores.s3 {
            region.clone_into(&mut s3.region);
        }
        let endpoint = endpoint_of("S3TABLES").unwrap_or_else(|| amazon("s3tables", region));
        let credentials = self.aws_credentials().provider(region);
        Ok(S3Tables {
            url: url("AWS_ENDPOINT_URL_S3TABLES", &endpoint)?,
            signer: Signer { service: "s3tables".to_owned(), credentials, region: region.to_owned() },
            arn: arn.to_owned(),
            files: Files::new(stores),
            http: Http::new()?,
        })
    }
}

/// The address of a service of AWS.
fn amazon(service: &str, region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://{service}.{region}.{domain}")
}

/// The address that the environment gives for a service, as for AWS' own tools.
fn endpoint_of(service: &str) -> Option<String> {
    let read = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    if read("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return None;
    }
    read(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| read("AWS_ENDPOINT_URL"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::json;

    fn auth(keys: serde_json::Value) -> Result<AuthType> {
        let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
        config.auth_type()
    }

    #[test]
    fn the_keys_say_how_a_catalog_is_asked() {
        let kinds = [
            (json!({"catalog_type": "rest"}), AuthType::None),
            (json!({"catalog_type": "rest", "token": "t"}), AuthType::Token),
            (json!({"catalog_type": "polaris", "credential": "id:secret", "token": "t"}), AuthType::OAuth2),
            (json!({"catalog_type": "unity", "rest_auth_type": "PAT", "token": "t"}), AuthType::Token),
            (json!({"catalog_type": "rest", "rest_auth_type": "OAuth2 M2M", "credential": "c"}), AuthType::OAuth2),
            (json!({"catalog_type": "rest", "rest_signing_v_4": true}), AuthType::SigV4),
            (json!({"catalog_type": "s3tables", "rest_auth_type": "None"}), AuthType::SigV4),
            (json!({"catalog_type": "biglake"}), AuthType::Google),
        ];
        for (keys, expected) in kinds {
            assert_eq!(auth(keys.clone()).expect("kind"), expected, "{keys}");
        }
        for keys in [
            json!({"catalog_type": "rest", "rest_auth_type": "kerberos"}),
            json!({"catalog_type": "rest", "rest_auth_type": "Token"}),
            json!({"catalog_type": "rest", "rest_auth_type": "oauth2"}),
        ] {
            assert_eq!(auth(keys.clone()).expect_err("refused").kind(), Kind::Config, "{keys}");
        }
    }

    #[test]
    fn keys_that_cannot_work_are_refused_before_anything_is_sent() {
        for (keys, part) in [
            (json!({"catalog_type": "lakekeeper"}), "`rest_catalog_url` is empty"),
            (json!({"catalog_type": "rest", "rest_catalog_url": "localhost:8181"}), "no URL"),
            (json!({"catalog_type": "s3tables", "iceberg_s3_path": "s3://bucket"}), "no ARN"),
            (json!({"catalog_type": "biglake", "rest_catalog_url": "https://x"}), "`gcp_service_account_json` is empty"),
            (json!({"catalog_type": "biglake", "rest_catalog_url": "https://x", "gcp_service_account_json": "{}"}), "no key file"),
        ] {
            let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
            let error = config.validate().expect_err("refused");
            assert!(error.kind() == Kind::Config && error.to_string().contains(part), "{error}");
        }
    }
}
