//! The signature of a webhook: HMAC-SHA256 over the time and the body, so that an old one cannot be sent again.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The size of SHA-256's blocks.
const BLOCK: usize = 64;

/// The value of `X-Pinsched-Signature` for a body that is sent at that second: `t=…,v1=…`, where `v1` is the HMAC-SHA256 of
/// `t`, a dot and the body.
#[must_use]
pub fn signature(secret: &SecretString, second: i64, body: &[u8]) -> String {
    let mut message = format!("{second}.").into_bytes();
    message.extend_from_slice(body);
    let mut text = format!("t={second},v1=");
    for byte in hmac(secret.expose_secret().as_bytes(), &message) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// HMAC as RFC 2104 has it.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let hashed;
    let key = if key.len() > BLOCK {
        hashed = Sha256::digest(key).to_vec();
        hashed.as_slice()
    } else {
        key
    };
    let padded = |pad: u8| -> Vec<u8> {
        let zeros = std::iter::repeat(&0_u8);
        key.iter().chain(zeros).take(BLOCK).map(|byte| byte ^ pad).collect()
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 4231, test cases 1, 2 and 6.
    #[test]
    fn the_codes_are_those_of_the_standard() {
        for (key, message, code) in [
            (vec![0x0b; 20], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hex(&hmac(&key, message.as_bytes())), code);
        }
    }

    #[test]
    fn the_time_is_signed_with_the_body() {
        let secret = SecretString::from("Jefe");
        let signed = signature(&secret, 12, b"{}");
        assert_eq!(signed, format!("t=12,v1={}", hex(&hmac(b"Jefe", b"12.{}"))));
        assert_ne!(signed.split_once("v1="), signature(&secret, 13, b"{}").split_once("v1="));
    }
}
