//! The operators that a file may name, with their schemas at hand.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use serde_json::Value;

use crate::domain::diagnostic::{Code, Diagnostic, closest, listed};
use crate::domain::operator_kind::OperatorKind;
use crate::domain::source::Span;

/// The operators by every name that they have.
pub(super) struct Catalog {
    kinds: Vec<&'static OperatorKind>,
    by_name: HashMap<&'static str, &'static OperatorKind>,
    described: HashMap<&'static str, Rc<Described>>,
}

/// An operator with what its schema says; made once a file, since schemas are generated anew each time.
pub(super) struct Described {
    pub(super) kind: &'static OperatorKind,
    pub(super) schema: Value,
    /// The names of its keys.
    pub(super) keys: Vec<String>,
}

impl Described {
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known == key)
    }
}

impl Catalog {
    pub(super) fn new(kinds: &[&'static OperatorKind]) -> Self {
        let names =
            kinds.iter().flat_map(|kind| kind.class_paths.iter().chain([&kind.name]).map(|name| (*name, *kind)));
        Self { kinds: kinds.to_vec(), by_name: names.collect(), described: HashMap::new() }
    }

    /// The operator of that name or class path.
    pub(super) fn find(&mut self, name: &str) -> Option<Rc<Described>> {
        let kind = *self.by_name.get(name)?;
        let described = self.described.entry(kind.name).or_insert_with(|| {
            let schema = (kind.schema)().to_value();
            let mut keys = Vec::new();
            collect_keys(&schema, &schema, &mut keys, 0);
            Rc::new(Described { kind, schema, keys })
        });
        Some(Rc::clone(described))
    }

    /// The keys of all operators: a key of `default_args` that none has is a slip.
    pub(super) fn all_keys(&mut self) -> BTreeSet<String> {
        let names: Vec<&str> = self.kinds.iter().map(|kind| kind.name).collect();
        names.into_iter().filter_map(|name| self.find(name)).flat_map(|operator| operator.keys.clone()).collect()
    }

    /// The diagnostic for a name that no operator has.
    pub(super) fn unknown(&self, name: &str, span: Span) -> Diagnostic {
        let names = || self.kinds.iter().map(|kind| kind.name);
        let Some((_, class)) = name.rsplit_once('.') else {
            return Diagnostic::error(Code::UnknownOperator, span, format!("there is no operator `{name}`"))
                .did_you_mean(name, names(), || Some(format!("there are {}", listed(names()))));
        };
        if let Some(instead) = instead_of(class) {
            let message = format!("the class `{name}` is known from Airflow, but not supported");
            return Diagnostic::error(Code::UnknownOperator, span, message).help(instead);
        }
        // Airflow has moved its classes about: the class's own name says most.
        let classes = || {
            self.kinds
                .iter()
                .flat_map(|kind| kind.class_paths.iter().filter_map(|path| Some((path.rsplit_once('.')?.1, kind.name))))
        };
        let meant = closest(class, classes().map(|(known, _)| known));
        let meant = classes().find(|(known, _)| Some(*known) == meant);
        let message = format!("no operator here stands in for the class `{name}`");
        Diagnostic::error(Code::UnknownOperator, span, message).help(match meant {
            Some((_, kind)) => format!("did you mean `{kind}`?"),
            None => format!("there are {}", listed(names())),
        })
    }
}

/// What to use instead of a class of Airflow's whose decision is Python in the DAG's file.
fn instead_of(class: &str) -> Option<&'static str> {
    Some(match class {
        "BranchPythonVirtualenvOperator" | "BaseBranchOperator" | "BranchSQLOperator" => {
            "use `branch`, whose `follow` is a template; a `python` task before it can compute it"
        }
        "BranchDayOfWeekOperator" | "BranchDateTimeOperator" => {
            "use `branch`, whose `follow` is a template that sees `logical_date`"
        }
        "PythonVirtualenvOperator" => "make the virtual environment once, and use `python` with `venv`",
        _ => return None,
    })
}

/// The names of the keys that a schema gives to the object that it describes.
fn collect_keys(schema: &Value, root: &Value, keys: &mut Vec<String>, depth: usize) {
    /// A schema may refer to itself.
    const DEEPEST: usize = 8;
    if depth > DEEPEST {
        return;
    }
    let schema = super::config::resolved(schema, root);
    let properties = schema.get("properties").and_then(Value::as_object);
    keys.extend(properties.into_iter().flat_map(|properties| properties.keys().cloned()));
    for combined in ["allOf", "anyOf", "oneOf"] {
        for branch in schema.get(combined).and_then(Value::as_array).into_iter().flatten() {
            collect_keys(branch, root, keys, depth + 1);
        }
    }
}
