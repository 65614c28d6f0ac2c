//! Encrypted files, in OLake's form: the file is one JSON string that holds base64, its key a text or the name of a key in AWS KMS.
//!
//! A text becomes a key for AES-256-GCM by SHA-256; the bytes are 12 of nonce, the ciphertext and 16 of tag, and nothing beside
//! them is authenticated. Promises: neither key nor content is in a message or in `Debug`. Pure: does not ask KMS (`crate::kms`
//! does), and does not know what the file says.

use crate::error::{Error, Result};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use writers::Secret;

/// How the names of keys in KMS begin; everything else is a text, as in OLake.
const KMS: &str = "arn:aws:kms:";

/// Go's decoder, which OLake uses, does not look at the unused bits of the last character either.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// The key of encrypted files.
#[derive(Clone, Debug)]
pub enum Key {
    /// A text that only the user knows.
    Text(Secret),
    /// A key that does not leave AWS KMS.
    Kms(KmsKey),
}

/// The name of a key in KMS, and the region in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsKey {
    /// The whole name.
    pub arn: String,
    /// Where the key is. Keys answer nowhere else.
    pub region: String,
}

impl Key {
    /// The key that was given; `None` if it is blank, which means that files are not encrypted.
    pub fn parse(given: &Secret) -> Result<Option<Self>> {
        if given.is_empty() {
            return Ok(None);
        }
        let text = given.expose();
        let Some(place) = text.strip_prefix(KMS) else { return Ok(Some(Self::Text(given.clone()))) };
        match place.splitn(3, ':').collect::<Vec<_>>()[..] {
            [region, account, resource] if !region.is_empty() && !account.is_empty() && resource.contains('/') => {
                Ok(Some(Self::Kms(KmsKey { arn: text.to_owned(), region: region.to_owned() })))
            }
            _ => Err(Error::config("--encryption-key: begins like the name of a key in AWS KMS, and is not a complete one")
                .hint("give arn:aws:kms:REGION:ACCOUNT:key/ID, or an alias in the same form")),
        }
    }
}

/// The bytes that the string of an encrypted file stands for. Line ends in it are left out, as in OLake.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64.decode(text).map_err(|_| {
        Error::config("the string in the file is not base64, so it is not an encrypted file")
            .hint("an encrypted file is one JSON string of standard base64 with its padding; `lakeward encrypt` makes one")
    })
}

/// The encrypted file that stands for `bytes`.
pub fn file(bytes: &[u8]) -> String {
    format!("\"{}\"", BASE64.encode(bytes))
}

/// Decrypts what [`seal`] or OLake has made.
pub fn open(bytes: &[u8], key: &Secret) -> Result<Vec<u8>> {
    let (nonce, sealed) = match bytes.split_first_chunk::<NONCE_LEN>() {
        Some((nonce, sealed)) if sealed.len() >= MAX_TAG_LEN => (*nonce, sealed),
        _ => {
            let least = NONCE_LEN + MAX_TAG_LEN;
            return Err(Error::config(format!("the encrypted text is too short: found {} bytes, {least} are the least", bytes.len()))
                .hint("the file may be cut off; encrypt the original again with `lakeward encrypt`"));
        }
    };
    let mut text = sealed.to_vec();
    match cipher(key)?.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text) {
        Ok(opened) => Ok(opened.to_vec()),
        Err(_) => Err(Error::config("the file cannot be decrypted: it was encrypted with another key, or it is damaged").hint(remedy(key))),
    }
}

/// Encrypts a text so that OLake can read it too.
pub fn seal(text: &[u8], key: &Secret) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE_LEN] = ring::rand::generate(&ring::rand::SystemRandom::new())
        .map_err(|_| Error::bug("the operating system gives no random bytes"))?
        .expose();
    let mut sealed = text.to_vec();
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .map_err(|_| Error::config("the file is too large to be encrypted"))?;
    Ok([&nonce[..], &sealed].concat())
}

fn cipher(key: &Secret) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, digest(&SHA256, key.expose().as_bytes()).as_ref());
    key.map(LessSafeKey::new).map_err(|_| Error::bug("a SHA-256 digest is not a key of AES-256"))
}

/// What may be wrong with a key, said without saying the key.
fn remedy(key: &Secret) -> &'static str {
    let text = key.expose();
    if text != text.trim() {
        "check --encryption-key (or LAKEWARD_ENCRYPTION_KEY): it begins or ends with a space or a line end, which counts"
    } else if text.starts_with("arn:") {
        "check --encryption-key (or LAKEWARD_ENCRYPTION_KEY): only arn:aws:kms:… names a key in AWS KMS, anything else is the key itself"
    } else {
        "check --encryption-key (or LAKEWARD_ENCRYPTION_KEY); the key is compared to the last letter, upper and lower case count"
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Made in Go with crypto/sha256, crypto/aes, cipher.NewGCM and base64.StdEncoding, the calls that OLake makes: key, nonce
    /// counting up from 1, 200 and 7, text, result.
    const MADE_IN_GO: [(&str, &[u8], &str); 4] = [
        (
            "correct horse battery staple",
            br#"{"host": "db.example.com", "password": "hunter2"}"#,
            "AQIDBAUGBwgJCgsMfoBgcGf9XwWCU7XWiz8opzcgGAdO+MxhHG4I/JN3NP82JKfl65dTWodIzoahDazj1pNpTuESld5BsNNHvcv2nUg=",
        ),
        (
            " kéy ",
            b"host: db.example.com\npassword: hunter2\n",
            "yMnKy8zNzs/Q0dLT51HUDP39ptDH1DojJw7RexZfGsuggS0rcLdD9RQKRgLNveR7qutTzPXP+QCLcC8ER3X+L5/8hg==",
        ),
        ("k", b"\xff\xfe", "BwgJCgsMDQ4PEBESE/0W5cvfLpTm6hDfx1zsCUml"),
        ("k", b"", "BwgJCgsMDQ4PEBESSIFTOS4k7Xi3ysYPoPfGlQ=="),
    ];

    #[test]
    fn what_go_encrypted_is_read() {
        for (key, text, encrypted) in MADE_IN_GO {
            assert_eq!(open(&bytes(encrypted).unwrap(), &Secret::new(key)).unwrap(), text, "{encrypted}");
        }
    }

    #[test]
    fn what_is_sealed_is_opened_and_never_looks_the_same_twice() {
        let key = Secret::new("a key");
        for text in [&b""[..], b"x", &[7; 100_000]] {
            let (one, two) = (seal(text, &key).unwrap(), seal(text, &key).unwrap());
            assert_ne!(one, two);
            assert_eq!(open(&one, &key).unwrap(), text);
            let file = file(&two);
            assert_eq!(bytes(file.trim_matches('"')).unwrap(), two);
        }
    }

    #[test]
    fn any_change_is_noticed() {
        let (key, _, encrypted) = MADE_IN_GO[0];
        let (key, good) = (Secret::new(key), bytes(encrypted).unwrap());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(open(&bad, &key).unwrap_err().to_string().contains("another key, or it is damaged"), "byte {at}");
        }
        for len in 0..good.len() {
            let error = open(&good[..len], &key).unwrap_err().to_string();
            let expected = if len < 28 { "too short" } else { "another key" };
            assert!(error.contains(expected), "{len}: {error}");
        }
        for other in ["correct horse battery stapl", "Correct horse battery staple", "correct horse battery staple\n"] {
            let error = open(&good, &Secret::new(other)).unwrap_err();
            assert_eq!(error.advice().unwrap().contains("line end"), other.ends_with('\n'), "{other:?}");
        }
        let arn = open(&good, &Secret::new("arn:aws-cn:kms:cn-north-1:1:key/2")).unwrap_err();
        assert!(arn.advice().unwrap().contains("arn:aws:kms:…"), "{:?}", arn.advice());
    }

    #[test]
    fn base64_is_read_as_go_reads_it() {
        let check = |text: &str, expected: Option<&[u8]>| assert_eq!(bytes(text).ok().as_deref(), expected, "{text:?}");
        check("aGk=", Some(b"hi"));
        check("aG\r\nk=\n", Some(b"hi"));
        check("aGl=", Some(b"hi"));
        check("", Some(b""));
        check("aGk", None);
        check("aGk_", None);
        check("a*k=", None);
        check("aGk=aGk=", None);
    }

    #[test]
    fn keys_are_texts_or_names_in_kms() {
        let check = |key: &str, expected: Result<Option<Option<&str>>, &str>| {
            let parsed = Key::parse(&Secret::new(key));
            let found = match &parsed {
                Ok(None) => Ok(None),
                Ok(Some(Key::Text(text))) if text.expose() == key => Ok(Some(None)),
                Ok(Some(Key::Text(_))) => panic!("{key:?} was changed"),
                Ok(Some(Key::Kms(name))) => Ok(Some(Some(name.region.as_str()))),
                Err(error) => Err(error.advice().unwrap()),
            };
            assert!(
                match (found, expected) {
                    (Err(found), Err(words)) => found.contains(words),
                    (found, expected) => found == expected,
                },
                "{key:?}: {found:?}"
            );
        };
        check("", Ok(None));
        check(" \t\n", Ok(None));
        check("secret", Ok(Some(None)));
        check(" secret ", Ok(Some(None)));
        check("arn:aws:iam::1:role/x", Ok(Some(None)));
        check("arn:aws:kms:eu-west-1:111122223333:key/1234", Ok(Some(Some("eu-west-1"))));
        check("arn:aws:kms:us-east-1:111122223333:alias/lake", Ok(Some(Some("us-east-1"))));
        check("arn:aws:kms:", Err("arn:aws:kms:REGION"));
        check("arn:aws:kms::111122223333:key/1234", Err("arn:aws:kms:REGION"));
        check("arn:aws:kms:eu-west-1:111122223333", Err("arn:aws:kms:REGION"));
    }

    #[test]
    fn nothing_shows_the_key() {
        let key = Key::parse(&Secret::new("hunter2")).unwrap();
        assert!(!format!("{key:?}").contains("hunter2"));
    }
}
