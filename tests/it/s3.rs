//! The S3 client and the laptop's S3 server, against one another.

use std::collections::BTreeMap;

use bytes::Bytes;
use pinsched::connect::s3::{ObjectHead, ObjectSummary, PART_SIZE, Precondition, PutOptions, S3, S3Error};
use pinsched::connect::{S3Credentials, S3Endpoint};
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "some-bucket";

async fn server(folder: &TempDir) -> S3Server {
    let config = S3ServerConfig {
        root: folder.path().join("s3"),
        listen: "127.0.0.1:0".parse().unwrap(),
        access_key_id: "key".to_owned(),
        secret_access_key: SecretString::from("secret"),
    };
    S3Server::start(config, CancellationToken::new()).await.unwrap()
}

fn endpoint(url: &str) -> S3Endpoint {
    let credentials =
        S3Credentials { access_key_id: "key".to_owned(), secret_access_key: SecretString::from("secret") };
    S3Endpoint {
        endpoint_url: Some(url.parse().unwrap()),
        region: None,
        credentials: Some(credentials),
        path_style: true,
        create_buckets: true,
        staging_bucket: BUCKET.to_owned(),
    }
}

async fn client(server: &S3Server) -> S3 {
    let s3 = S3::connect(&endpoint(&server.endpoint_url())).await;
    s3.ensure_bucket(BUCKET).await.unwrap();
    s3
}

fn create_only() -> PutOptions {
    PutOptions { precondition: Precondition::CreateOnly, ..PutOptions::default() }
}

/// Bytes in which no part is like another.
fn large(length: usize) -> Bytes {
    (0..length).map(|index| u8::try_from((index / 1000) % 251).unwrap()).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn objects_are_put_read_listed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    s3.ensure_bucket(BUCKET).await.unwrap();
    let metadata = BTreeMap::from([("start-offset".to_owned(), "7".to_owned())]);
    let options = PutOptions { content_type: "application/json", metadata: metadata.clone(), ..PutOptions::default() };
    let key = "topics/0e35b2767ae1.pin/partition=0/0e35b2767ae1.pin+0+0000000007.json";
    s3.put(BUCKET, key, Bytes::from_static(b"{}\n"), options).await.unwrap();
    s3.put(BUCKET, "topics/a b+%/ü.json", Bytes::new(), PutOptions::default()).await.unwrap();

    assert_eq!(s3.get(BUCKET, key).await.unwrap(), "{}\n");
    assert_eq!(s3.get(BUCKET, "topics/a b+%/ü.json").await.unwrap(), "");
    assert_eq!(s3.head(BUCKET, key).await.unwrap(), Some(ObjectHead { size: 3, metadata }));
    assert_eq!(s3.head(BUCKET, "nothing").await.unwrap(), None);
    let listed = s3.list(BUCKET, "topics/").await.unwrap();
    let summary = |key: &str, size| ObjectSummary { key: key.to_owned(), size };
    assert_eq!(listed, [summary(key, 3), summary("topics/a b+%/ü.json", 0)]);
    s3.delete(BUCKET, key).await.unwrap();
    s3.delete(BUCKET, key).await.unwrap();
    let error = s3.get(BUCKET, key).await.unwrap_err();
    assert!(matches!(error, S3Error::NotFound { .. }), "{error}");
    assert_eq!(error.to_string(), format!("could not get s3://{BUCKET}/{key}: it does not exist"));
    server.stop().await;
}

#[tokio::test]
async fn a_listing_of_several_pages_is_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    let keys: Vec<String> = (0..1100).map(|number| format!("many/{number:04}")).collect();
    let puts = keys.chunks(100).map(|chunk| {
        let s3 = s3.clone();
        async move {
            for key in chunk {
                s3.put(BUCKET, key, Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
            }
        }
    });
    futures::future::join_all(puts).await;
    let listed: Vec<String> = s3.list(BUCKET, "many/").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, keys);
}

#[tokio::test]
async fn bodies_around_the_size_of_a_part_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    for length in [PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, 2 * PART_SIZE + 12_345] {
        let body = large(length);
        s3.put(BUCKET, "large", body.clone(), PutOptions::default()).await.unwrap();
        let mut read = Vec::new();
        s3.get_stream(BUCKET, "large").await.unwrap().read_to_end(&mut read).await.unwrap();
        assert!(read == body, "{length} bytes came back as {}", read.len());
    }
}

#[tokio::test]
async fn an_upload_in_odd_pieces_is_whole_and_one_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    let body = large(3 * PART_SIZE + 77);
    let mut upload = s3.upload(BUCKET, "pieces", PutOptions::default());
    for piece in body.chunks(3_000_001) {
        upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(s3.head(BUCKET, "pieces").await.unwrap(), None, "nothing is seen before the end");
    upload.finish().await.unwrap();
    assert!(s3.get(BUCKET, "pieces").await.unwrap() == body);

    let mut upload = s3.upload(BUCKET, "given-up", PutOptions::default());
    upload.write(body).await.unwrap();
    upload.abort().await;
    assert_eq!(s3.head(BUCKET, "given-up").await.unwrap(), None);
    let left = std::fs::read_dir(folder.path().join("s3")).unwrap();
    let left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("upload")), "{left:?}");
}

#[tokio::test]
async fn create_only_refuses_what_is_there_also_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    for body in [Bytes::from_static(b"small"), large(PART_SIZE + 1)] {
        let key = format!("key-{}", body.len());
        s3.put(BUCKET, &key, body.clone(), create_only()).await.unwrap();
        let error = s3.put(BUCKET, &key, body.clone(), create_only()).await.unwrap_err();
        assert!(matches!(error, S3Error::AlreadyExists { .. }) && !error.is_transient(), "{error}");
        assert!(s3.get(BUCKET, &key).await.unwrap() == body);
    }
}

#[tokio::test]
async fn what_goes_wrong_has_a_name_and_a_class() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let mut fixed = endpoint(&server.endpoint_url());
    fixed.create_buckets = false;
    let s3 = S3::connect(&fixed).await;
    let error = s3.ensure_bucket("missing").await.unwrap_err();
    assert!(matches!(error, S3Error::NoSuchBucket { .. }), "{error}");
    let error = s3.put("missing", "key", Bytes::new(), PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, S3Error::NoSuchBucket { .. }), "{error}");

    let wrong = S3Credentials { access_key_id: "key".to_owned(), secret_access_key: SecretString::from("guess") };
    let s3 = S3::connect(&S3Endpoint { credentials: Some(wrong), ..fixed.clone() }).await;
    let error = s3.ensure_bucket(BUCKET).await.unwrap_err();
    assert!(matches!(error, S3Error::AccessDenied { .. }) && !error.is_transient(), "{error}");

    let url = server.endpoint_url();
    server.stop().await;
    let s3 = S3::connect(&endpoint(&url)).await;
    let error = s3.get(BUCKET, "key").await.unwrap_err();
    assert!(matches!(error, S3Error::Unreachable { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn what_the_system_refuses_is_told_with_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    std::fs::write(folder.path().join("s3").join(BUCKET).join("a"), "where a folder should be").unwrap();
    let error = s3.put(BUCKET, "a/b", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap_err();
    let root = folder.path().join("s3");
    let told = format!("could not put s3://{BUCKET}/a/b: status 500, InternalError: ");
    assert!(error.is_transient() && error.to_string().starts_with(&told), "{error}");
    assert!(error.to_string().ends_with(&format!("(os error 17) (in {})", root.display())), "{error}");
}

#[tokio::test]
async fn objects_outlive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(&folder).await;
    client(&first).await.put(BUCKET, "key", Bytes::from_static(b"kept"), PutOptions::default()).await.unwrap();
    first.stop().await;
    let second = server(&folder).await;
    assert_eq!(client(&second).await.get(BUCKET, "key").await.unwrap(), "kept");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(&folder).await;
    let config = S3ServerConfig {
        root: folder.path().to_owned(),
        listen: first.address(),
        access_key_id: "key".to_owned(),
        secret_access_key: SecretString::from("secret"),
    };
    let error = S3Server::start(config, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("could not listen on {} for the S3 server", first.address()));
}

#[tokio::test]
async fn a_key_that_is_too_long_for_the_laptop_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let s3 = client(&server).await;
    let key = format!("staging/{}/{}/part-00000.ndjson.zst", "d".repeat(100), "t".repeat(100));
    let metadata = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let options = PutOptions { metadata, ..PutOptions::default() };
    let error = s3.put(BUCKET, &key, Bytes::from_static(b"x"), options.clone()).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("takes keys of about 110 bytes"), "{error}");
    for (length, body) in [(140, Bytes::from_static(b"x")), (110, large(PART_SIZE + 1))] {
        s3.put(BUCKET, &key[..length], body.clone(), options.clone()).await.unwrap();
        assert!(s3.get(BUCKET, &key[..length]).await.unwrap() == body);
        s3.delete(BUCKET, &key[..length]).await.unwrap();
    }
}

/// botocore asks for URL-encoded keys, and decodes them when it is told that they are: `+` would become a blank.
#[tokio::test]
async fn listed_keys_are_as_they_were_put_whatever_encoding_a_client_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let key = "topics/u.pin/partition=0/u.pin+0+0000000000.json";
    client(&server).await.put(BUCKET, key, Bytes::from("{}"), PutOptions::default()).await.unwrap();
    let credentials = aws_sdk_s3::config::Credentials::new("key", "secret", None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(server.endpoint_url())
        .region(aws_sdk_s3::config::Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .force_path_style(true)
        .build();
    let sdk = aws_sdk_s3::Client::from_conf(config);
    let encoding = aws_sdk_s3::types::EncodingType::Url;
    let listed = sdk.list_objects_v2().bucket(BUCKET).encoding_type(encoding.clone()).send().await.unwrap();
    assert_eq!((listed.contents()[0].key(), listed.encoding_type()), (Some(key), None));
    let listed = sdk.list_objects().bucket(BUCKET).encoding_type(encoding).send().await.unwrap();
    assert_eq!((listed.contents()[0].key(), listed.encoding_type()), (Some(key), None));
}
