//! Values of mapped tasks beside each other, by the rules of the real operators.

use pinsched::domain::check::check;
use pinsched::domain::source::SourceFile;
use pinsched::operators::catalog;

fn said(text: &str) -> Vec<String> {
    let file = SourceFile::new("mapped.yaml", text);
    let checked = check(&file, &catalog());
    checked.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect()
}

/// What an operator says of two keys together is not asked while one of them is not known.
#[test]
fn what_is_right_together_is_not_refused() {
    let text = r#"
mapped_beside:
  params: {buckets: null}
  tasks:
    list: {operator: bash, bash_command: ls}
    bucket_of_variable: {operator: s3_key_sensor, bucket_name: "{{ var.value.lake }}", expand: {bucket_key: [pins/a, users/a]}}
    bucket_expanded: {operator: s3_key_sensor, expand: {bucket_key: [pins/a, users/a], bucket_name: [lake, "{{ ds }}"]}}
    bucket_after_template: {operator: s3_key_sensor, expand: {bucket_key: [pins/a], bucket_name: ["{{ ds }}", lake]}}
    bucket_in_the_run: {operator: s3_key_sensor, dependencies: [list], expand: {bucket_key: [pins/a], bucket_name: list.output}}
    bucket_of_each: {operator: s3_key_sensor, expand_kwargs: [{bucket_key: a, bucket_name: lake}, {bucket_key: "s3://lake/b"}]}
    host_expanded: {operator: http, expand: {endpoint: [/a, /b], http_conn_id: [east, west]}}
    host_of_variable: {operator: http, http_conn_id: "{{ var.value.host }}", expand: {endpoint: [/a, /b]}}
    pauses_expanded:
      operator: s3_key_sensor
      bucket_name: lake
      bucket_key: a
      expand: {max_wait: [5m], exponential_backoff: [true]}
    pauses_of_variable:
      operator: s3_key_sensor
      bucket_name: lake
      bucket_key: a
      exponential_backoff: "{{ var.value.grow }}"
      expand: {max_wait: [5m, 10m]}
"#;
    assert_eq!(said(text), Vec::<String>::new());
}

#[test]
fn what_is_wrong_together_is_told_at_the_value_and_once() {
    let keys = "bucket_key: [a, 's3://lake/b'], bucket_name: [lake, ice]";
    for (task, place, words) in [
        (format!("expand: {{{keys}}}"), "'s3://lake/b'", "`s3://lake/b` names its bucket: leave out `bucket_name`"),
        (
            "bucket_name: lake, expand: {wildcard_match: [true], bucket_key: [a, 's3://lake/b']}".to_owned(),
            "'s3://lake/b'",
            "`s3://lake/b` names its bucket: leave out `bucket_name`",
        ),
        (
            "bucket_name: lake, expand: {bucket_key: [a, b], exponential_backoff: [false], max_wait: [5m]}".to_owned(),
            "5m",
            "all pauses are the same",
        ),
        ("expand_kwargs: [{bucket_key: 's3://lake/a'}, {bucket_key: b}]".to_owned(), "b}", "`b` names no bucket"),
    ] {
        let line = format!("    wait: {{operator: s3_key_sensor, {task}}}");
        let found = said(&format!("waits:\n  tasks:\n{line}\n"));
        assert_eq!(found.len(), 1, "{task}: {found:?}");
        let column = line.find(place).unwrap() + 1;
        assert!(found[0].contains(words) && found[0].contains(&format!("mapped.yaml:3:{column}")), "{}", found[0]);
    }
}
