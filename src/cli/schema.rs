//! `pinsched schema`: a JSON Schema of DAG files, for editors.

use serde_json::Value;

use crate::domain::json_schema::file_schema;
use crate::domain::operator_kind::OperatorKind;

/// The schema of DAG files whose tasks use the operators of `catalog`.
pub(crate) fn schema(catalog: &[&'static OperatorKind]) -> Value {
    file_schema(catalog)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::json_schema::violations;
    use crate::domain::source::SourceFile;

    /// What an editor would underline in a file.
    fn underlined(folder: &str, only: Option<&str>) -> Vec<String> {
        let schema = schema(&crate::operators::catalog());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_asked_for = only.is_none_or(|only| path.ends_with(only));
            if path.extension().is_some_and(|extension| extension == "yaml") && is_asked_for {
                let file = SourceFile::new(path.display().to_string(), std::fs::read_to_string(&path).unwrap());
                found.extend(violations(&schema, &file).iter().map(|one| one.render(&file, false)));
            }
        }
        found
    }

    #[test]
    fn the_dags_that_come_with_pinsched_fit_the_schema() {
        assert_eq!(underlined("dags", None), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_fit_is_underlined() {
        assert_ne!(underlined("tests/fixtures/bad", Some("task_key_unknown.yaml")), Vec::<String>::new());
        assert_ne!(underlined("tests/fixtures/bad", Some("wrong_types.yaml")), Vec::<String>::new());
    }
}
