//! `file_sensor`: waits for a file.

use std::io;
use std::path::Path;

use async_trait::async_trait;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::connect::kafka::blocking;
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Registration, TaskContext};
use crate::operators::file_pattern::matching;

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<File> };

static KIND: OperatorKind = OperatorKind {
    name: "file_sensor",
    class_paths: &[
        "airflow.providers.standard.sensors.filesystem.FileSensor",
        "airflow.sensors.filesystem.FileSensor",
        "airflow.contrib.sensors.file_sensor.FileSensor",
    ],
    about: "Waits for a file",
    schema: || schemars::schema_for!(File),
    check: check::<File>,
    late_fields: &[],
    file_keys: &[],
};

sensor_keys! {
    /// The keys of a `file_sensor` task.
    File {
        /// The file: from the DAG file's folder on, with `*` and `?` in its name. A folder counts once there is a file in
        /// it, or in one below.
        filepath: String,
    }
}

impl Sensor for File {
    fn problems(&self) -> Vec<ConfigProblem> {
        let is_empty = self.filepath.trim().is_empty();
        is_empty.then(|| ConfigProblem::at("filepath", "it names no file")).into_iter().collect()
    }
}

#[async_trait]
impl Look for File {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let (folder, pattern) = (context.dag_folder.clone(), self.filepath.clone());
        let found = blocking(move || first(&folder, &pattern)).await;
        match found.map_err(|error| Failure::Retry(format!("could not look for `{}`: {error}", self.filepath)))? {
            Some(path) => Ok(Seen::Met(met(path))),
            None => Ok(Seen::NotYet(format!("`{}` is not there", self.filepath))),
        }
    }
}

/// The first, by name, of what the pattern names that is a file or has one in it.
fn first(folder: &Path, pattern: &str) -> io::Result<Option<String>> {
    let mut found = matching(folder, pattern)?;
    found.sort_unstable();
    for path in found {
        if has_file(&path)? {
            return Ok(Some(path.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

fn has_file(path: &Path) -> io::Result<bool> {
    if !path.is_dir() {
        return Ok(path.exists());
    }
    for entry in path.read_dir()? {
        let entry = entry?;
        // A link to a folder is not followed: it may lead back.
        if !entry.file_type()?.is_dir() || has_file(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}
