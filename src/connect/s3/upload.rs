//! An object written piece by piece: one request while it is small, multipart above one part.

use std::time::Duration;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::error::{S3Error, Target};
use super::{Precondition, PutOptions, S3};

/// The size of a part, and above which an upload has parts. S3 takes 10,000 of them: 80 GiB an object.
pub const PART_SIZE: usize = 8 * 1024 * 1024;

/// Whoever aborts is in a hurry: a lease was lost, a run cancelled.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// An object that is being written. Nothing of it can be read before [`Upload::finish`] has returned.
///
/// It must be ended by [`Upload::finish`] or [`Upload::abort`]; merely dropped, its parts stay (and cost) until the
/// bucket's lifecycle rule clears them.
#[derive(Debug)]
pub struct Upload {
    s3: S3,
    bucket: String,
    key: String,
    options: PutOptions,
    /// Not sent yet, a part at most; as they came, since most objects come as one.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    multipart: Option<Multipart>,
}

#[derive(Debug)]
struct Multipart {
    id: String,
    parts: Vec<CompletedPart>,
}

impl Upload {
    pub(super) fn new(s3: S3, bucket: &str, key: &str, options: PutOptions) -> Self {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        Self { s3, bucket, key, options, waiting: Vec::new(), waiting_bytes: 0, multipart: None }
    }

    fn target(&self, operation: &'static str) -> Target {
        Target::object(operation, &self.bucket, &self.key)
    }

    /// Adds bytes at the end; sends what makes whole parts.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), S3Error> {
        let mut rest = bytes;
        while self.waiting_bytes + rest.len() > PART_SIZE {
            let head = rest.split_to(PART_SIZE - self.waiting_bytes);
            self.keep(head);
            let part = self.take_waiting();
            self.send_part(part).await?;
        }
        self.keep(rest);
        Ok(())
    }

    fn keep(&mut self, bytes: Bytes) {
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
    }

    /// What waits, as one; copied only when it came in several pieces.
    fn take_waiting(&mut self) -> Bytes {
        self.waiting_bytes = 0;
        let mut pieces = std::mem::take(&mut self.waiting);
        pieces.retain(|piece| !piece.is_empty());
        if pieces.len() > 1 { pieces.concat().into() } else { pieces.pop().unwrap_or_default() }
    }

    async fn send_part(&mut self, part: Bytes) -> Result<(), S3Error> {
        let target = self.target("put a part of");
        self.begin().await?;
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        let number = i32::try_from(multipart.parts.len() + 1).unwrap_or(i32::MAX);
        let request = self.s3.client.upload_part().bucket(&self.bucket).key(&self.key);
        let request = request.upload_id(&multipart.id).part_number(number).body(part.into());
        let answer = request.send().await.map_err(|error| self.s3.error(&target, error))?;
        multipart.parts.push(CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag).build());
        Ok(())
    }

    /// Begins with the parts now, rather than when the first one is full. Whoever may drop a write half-way calls it before:
    /// an upload that is dropped while it begins has no name yet by which [`Upload::abort`] could remove it.
    pub async fn begin(&mut self) -> Result<(), S3Error> {
        if self.multipart.is_none() {
            let id = self.start().await?;
            self.multipart = Some(Multipart { id, parts: Vec::new() });
        }
        Ok(())
    }

    async fn start(&self) -> Result<String, S3Error> {
        let target = self.target("start to put");
        let request = self.s3.client.create_multipart_upload().bucket(&self.bucket).key(&self.key);
        let metadata = self.options.metadata.clone().into_iter().collect();
        let request = request.content_type(self.options.content_type).set_metadata(Some(metadata));
        let answer = request.send().await.map_err(|error| self.s3.error(&target, error))?;
        answer.upload_id.ok_or_else(|| S3Error::Refused {
            target,
            status: 200,
            code: "NoUploadId".to_owned(),
            message: "the answer names no upload".to_owned(),
        })
    }

    /// Makes the object readable, whole. On failure what was sent is removed again, as far as the store answers.
    pub async fn finish(mut self) -> Result<(), S3Error> {
        let result = self.complete().await;
        if result.is_err() {
            self.abort().await;
        }
        result
    }

    async fn complete(&mut self) -> Result<(), S3Error> {
        let condition = match self.options.precondition {
            Precondition::Overwrite => None,
            Precondition::CreateOnly => Some("*".to_owned()),
        };
        let rest = self.take_waiting();
        if self.multipart.is_some() && !rest.is_empty() {
            self.send_part(rest.clone()).await?;
        }
        let target = self.target("put");
        let client = &self.s3.client;
        if let Some(multipart) = &self.multipart {
            let parts = CompletedMultipartUpload::builder().set_parts(Some(multipart.parts.clone())).build();
            let request = client.complete_multipart_upload().bucket(&self.bucket).key(&self.key);
            let request = request.upload_id(&multipart.id).multipart_upload(parts).set_if_none_match(condition);
            request.send().await.map_err(|error| self.s3.error(&target, error))?;
        } else {
            let metadata = self.options.metadata.clone().into_iter().collect();
            let request = client.put_object().bucket(&self.bucket).key(&self.key).body(rest.into());
            let request = request.content_type(self.options.content_type).set_metadata(Some(metadata));
            request.set_if_none_match(condition).send().await.map_err(|error| self.s3.error(&target, error))?;
        }
        Ok(())
    }

    /// Gives the object up: removes the parts that were sent. Best effort, logged when it fails.
    pub async fn abort(self) {
        let Some(multipart) = &self.multipart else { return };
        let target = self.target("abort the upload of");
        let request = self.s3.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key);
        let aborted = tokio::time::timeout(ABORT_TIMEOUT, request.upload_id(&multipart.id).send()).await;
        let error = match aborted {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(self.s3.error(&target, error)),
            Err(_) => Some(S3Error::Timeout { target }),
        };
        if let Some(error) = error {
            tracing::warn!(%error, "the parts of an unfinished upload stay until the bucket's lifecycle rule clears them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::S3Endpoint;

    #[tokio::test]
    async fn what_comes_as_one_is_sent_as_it_came() {
        let endpoint = S3Endpoint {
            endpoint_url: Some("http://127.0.0.1:9".parse().unwrap()),
            region: None,
            credentials: None,
            path_style: true,
            create_buckets: false,
            staging_bucket: "staging".to_owned(),
        };
        let mut upload = S3::connect(&endpoint).await.upload("bucket", "key", PutOptions::default());
        let body = Bytes::from(vec![7; 1000]);
        upload.write(body.clone()).await.unwrap();
        assert_eq!(upload.take_waiting().as_ptr(), body.as_ptr(), "it was copied");
        for piece in ["a", "", "bc"] {
            upload.write(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        assert_eq!(upload.take_waiting(), "abc");
        assert_eq!(upload.take_waiting(), "");
    }
}
