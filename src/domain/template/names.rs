//! Which names a template uses, found without rendering it.

use std::collections::HashSet;
use std::ops::Range;

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};
use minijinja::machinery::{Span, parse};

use crate::domain::diagnostic::{Code, closest};
use crate::domain::template::environment::{has_filter, has_test, syntax};

/// What a template uses.
#[derive(Debug, Default)]
pub(in crate::domain) struct Uses {
    /// The names that it takes from outside. A pull of another task's output reads as `outputs.<task>`.
    pub(in crate::domain) references: Vec<Reference>,
    /// What fails whenever it is rendered, whatever the values are.
    pub(in crate::domain) mistakes: Vec<Mistake>,
}

/// A name with the attributes behind it, as `params.rows` or `outputs.emulate.rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain) struct Reference {
    /// The name, then the attributes.
    pub(in crate::domain) path: Vec<String>,
    /// Where in the template, in bytes.
    pub(in crate::domain) range: Range<usize>,
    /// Whether the template itself provides for its absence (`| default(…)`, `is defined`).
    pub(in crate::domain) is_guarded: bool,
    /// Whether it stands where the template may not come to: in a branch, behind `and` or `or`, in a loop.
    pub(in crate::domain) is_conditional: bool,
    /// Whether its last attribute is a method that is called, as `get` of `params.get('rows')`.
    pub(in crate::domain) is_called: bool,
}

/// Something in a template that the engine cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain) struct Mistake {
    pub(in crate::domain) code: Code,
    pub(in crate::domain) message: String,
    pub(in crate::domain) help: Option<String>,
    pub(in crate::domain) range: Range<usize>,
}

/// A template that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain) struct SyntaxProblem {
    pub(in crate::domain) message: String,
    pub(in crate::domain) help: Option<&'static str>,
    pub(in crate::domain) range: Range<usize>,
}

/// All that a template uses, found without rendering it.
pub(in crate::domain) fn uses(template: &str) -> Result<Uses, SyntaxProblem> {
    let parsed = parse(template, "template", syntax()).map_err(|error| {
        let mut range = error.range().unwrap_or(0..template.len());
        // In the shell `${#name}` is a length; the engine blames the template's end.
        let comment =
            error.detail().is_some_and(|detail| detail.contains("comment")).then(|| template.rfind("{#")).flatten();
        if let Some(start) = comment {
            range = start..start + 2;
        }
        SyntaxProblem {
            help: comment.map(|_| "`{#` starts a comment that ends with `#}`; to have it as text, write `{{ '{#' }}`"),
            message: error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned),
            range: range.start.min(template.len())..range.end.min(template.len()),
        }
    })?;
    let mut names = Names::default();
    names.statement(&parsed);
    Ok(names.found)
}

/// Filters and tests that people reach for, for "did you mean"; a test holds them to those that the engine has.
const FILTERS: [&str; 34] = [
    "abs",
    "batch",
    "bool",
    "capitalize",
    "default",
    "dictsort",
    "ds",
    "ds_nodash",
    "escape",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "replace",
    "round",
    "select",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "ts",
    "ts_nodash",
    "unique",
];
const TESTS: [&str; 12] = [
    "defined",
    "divisibleby",
    "even",
    "in",
    "integer",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "undefined",
];

/// The expression of a template that is one `{{ expression }}` and nothing else.
pub(in crate::domain) fn lone_expression(template: &str) -> Option<&str> {
    let inner = template.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let Ok(Stmt::Template(parsed)) = parse(template.trim(), "template", syntax()) else {
        return None;
    };
    let [Stmt::EmitExpr(_)] = parsed.children.as_slice() else { return None };
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    Some(inner.strip_suffix('-').unwrap_or(inner))
}

#[derive(Default)]
struct Names<'a> {
    found: Uses,
    /// What the template defines itself. Scopes are not told apart: a name that is set anywhere is not ours to judge.
    own: HashSet<&'a str>,
    guarded: bool,
    conditional: bool,
}

fn range(span: Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

impl<'a> Names<'a> {
    fn statements(&mut self, statements: &[Stmt<'a>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                self.expression(&each.iter);
                self.target(&each.target);
                self.own.insert("loop");
                each.filter_expr.iter().for_each(|filter| self.expression(filter));
                self.conditional(|names| {
                    names.statements(&each.body);
                    names.statements(&each.else_body);
                });
            }
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr);
                self.conditional(|names| {
                    names.statements(&condition.true_body);
                    names.statements(&condition.false_body);
                });
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    self.expression(value);
                    self.target(target);
                }
                self.statements(&with.body);
            }
            Stmt::Set(set) => {
                self.expression(&set.expr);
                self.target(&set.target);
            }
            Stmt::SetBlock(set) => {
                self.target(&set.target);
                self.statements(&set.body);
            }
            Stmt::AutoEscape(block) => self.statements(&block.body),
            Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                self.statements(&block.body);
            }
            Stmt::Block(block) => self.statements(&block.body),
            Stmt::Macro(defined) => {
                self.own.insert(defined.name);
                self.own.insert("caller");
                defined.args.iter().for_each(|argument| self.target(argument));
                defined.defaults.iter().for_each(|default| self.expression(default));
                self.statements(&defined.body);
            }
            Stmt::CallBlock(block) => {
                self.expression(&block.call.expr);
                self.arguments(&block.call.args);
                self.statements(&block.macro_decl.body);
            }
            Stmt::Do(action) => {
                self.expression(&action.call.expr);
                self.arguments(&action.call.args);
            }
            // There is one template only: nothing to import, include or extend, and the engine says so.
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {}
        }
    }

    fn target(&mut self, target: &Expr<'a>) {
        match target {
            Expr::Var(name) => {
                self.own.insert(name.id);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.target(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.target(item)),
            _ => {}
        }
    }

    fn guarded(&mut self, expression: &Expr<'a>) {
        let before = std::mem::replace(&mut self.guarded, true);
        self.expression(expression);
        self.guarded = before;
    }

    fn conditional(&mut self, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.conditional, true);
        visit(self);
        self.conditional = before;
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>]) {
        for argument in arguments {
            match argument {
                CallArg::Pos(value)
                | CallArg::Kwarg(_, value)
                | CallArg::PosSplat(value)
                | CallArg::KwargSplat(value) => {
                    self.expression(value);
                }
            }
        }
    }

    fn expression(&mut self, expression: &Expr<'a>) {
        if let Some(path) = path_of(expression) {
            self.reference(path, whole_range(expression));
            return;
        }
        match expression {
            Expr::Var(_) | Expr::Const(_) => {}
            Expr::Slice(slice) => {
                self.expression(&slice.expr);
                [&slice.start, &slice.stop, &slice.step].into_iter().flatten().for_each(|part| self.expression(part));
            }
            Expr::UnaryOp(operation) => self.expression(&operation.expr),
            Expr::BinOp(operation) => {
                self.expression(&operation.left);
                if matches!(operation.op, BinOpKind::ScAnd | BinOpKind::ScOr) {
                    self.conditional(|names| names.expression(&operation.right));
                } else {
                    self.expression(&operation.right);
                }
            }
            Expr::Compare(compare) => {
                self.expression(&compare.expr);
                compare.ops.iter().for_each(|operation| self.expression(&operation.expr));
            }
            Expr::IfExpr(condition) => {
                self.expression(&condition.test_expr);
                self.conditional(|names| {
                    names.expression(&condition.true_expr);
                    condition.false_expr.iter().for_each(|other| names.expression(other));
                });
            }
            Expr::Filter(filter) => {
                if !has_filter(filter.name) {
                    self.unknown("filter", filter.name, &FILTERS, range(filter.span()));
                }
                if let Some(inner) = &filter.expr {
                    if matches!(filter.name, "default" | "d") { self.guarded(inner) } else { self.expression(inner) }
                }
                self.arguments(&filter.args);
            }
            Expr::Test(test) => {
                if !has_test(test.name) {
                    self.unknown("test", test.name, &TESTS, range(test.span()));
                }
                if matches!(test.name, "defined" | "undefined") {
                    self.guarded(&test.expr);
                } else {
                    self.expression(&test.expr);
                }
                self.arguments(&test.args);
            }
            Expr::GetAttr(get) => self.expression(&get.expr),
            Expr::GetItem(get) => {
                self.expression(&get.expr);
                self.expression(&get.subscript_expr);
            }
            Expr::Call(call) => {
                if self.pull(&call.expr, &call.args) || self.lookup(&call.expr, &call.args) {
                    return;
                }
                match path_of(&call.expr) {
                    Some(path) => self.add(Reference {
                        path,
                        range: whole_range(&call.expr),
                        is_guarded: self.guarded,
                        is_conditional: self.conditional,
                        is_called: true,
                    }),
                    None => self.expression(&call.expr),
                }
                self.arguments(&call.args);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.expression(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|item| self.expression(item)),
        }
    }

    fn reference(&mut self, path: Vec<String>, range: Range<usize>) {
        let reference =
            Reference { path, range, is_guarded: self.guarded, is_conditional: self.conditional, is_called: false };
        self.add(reference);
    }

    fn add(&mut self, reference: Reference) {
        if !self.own.contains(reference.path[0].as_str()) {
            self.found.references.push(reference);
        }
    }

    fn unknown(&mut self, kind: &str, name: &str, known: &[&str], range: Range<usize>) {
        self.found.mistakes.push(Mistake {
            code: Code::UnknownTemplateName,
            message: format!("templates have no {kind} `{name}`"),
            help: closest(name, known.iter().copied()).map(|close| format!("did you mean `{close}`?")),
            range,
        });
    }

    /// Reads `var.value.get('a', 'b')` as `var.value.a`, guarded; whether it was such a call, of a name that is written out.
    fn lookup(&mut self, callee: &Expr<'a>, arguments: &[CallArg<'a>]) -> bool {
        let Some(mut path) = path_of(callee) else { return false };
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let is_lookup = matches!(names.as_slice(), ["var", "value" | "json", "get"] | ["conn", "get"]);
        let Some((CallArg::Pos(Expr::Const(name)), rest)) = arguments.split_first() else { return false };
        let Some(name) = name.value.as_str().filter(|_| is_lookup) else { return false };
        path.pop();
        path.push(name.to_owned());
        self.add(Reference {
            path,
            range: whole_range(callee),
            is_guarded: true,
            is_conditional: self.conditional,
            is_called: false,
        });
        self.arguments(rest);
        true
    }

    /// Reads `ti.xcom_pull(task_ids='a', key='b')` as `outputs.a.b`; whether it was a pull.
    fn pull(&mut self, callee: &Expr<'a>, arguments: &[CallArg<'a>]) -> bool {
        let is_pull = path_of(callee).is_some_and(|path| {
            matches!(path.as_slice(), [ti, pull] if matches!(ti.as_str(), "ti" | "task_instance") && pull == "xcom_pull")
        });
        if !is_pull {
            return false;
        }
        let (mut tasks, mut key, mut map_indexes, mut refused, mut is_open) = (None, None, None, None, false);
        for argument in arguments {
            match argument {
                CallArg::Pos(value) | CallArg::Kwarg("task_ids", value) if tasks.is_none() => tasks = Some(value),
                CallArg::Kwarg("key", value) => key = Some(value),
                CallArg::Kwarg("map_indexes", value) => map_indexes = Some(value),
                // Airflow's second argument is `dag_id`, though many take it for the key.
                CallArg::Pos(value) => {
                    refused = Some((value, "`xcom_pull` takes one argument without a name".to_owned()));
                }
                CallArg::Kwarg(name, value) => {
                    refused = Some((value, format!("`xcom_pull` takes no `{name}` here")));
                }
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => is_open = true,
            }
        }
        if tasks.is_none() && !is_open {
            refused.get_or_insert((callee, "`xcom_pull` needs `task_ids` here".to_owned()));
        }
        if let Some((place, message)) = refused {
            let help = Some("as `ti.xcom_pull(task_ids='a_task', key='rows')`, from a task of the same run".to_owned());
            let range = whole_range(place);
            self.found.mistakes.push(Mistake { code: Code::TemplateFails, message, help, range });
        }
        if let Some(map_indexes) = map_indexes {
            self.expression(map_indexes);
        }
        // Known only when it is rendered, as far as it is not fixed text: it may then be any task's.
        self.reference(vec!["ti".to_owned()], whole_range(callee));
        let key = match key {
            Some(Expr::Const(key)) => key.value.as_str().map(ToOwned::to_owned),
            Some(other) => {
                self.expression(other);
                None
            }
            None => None,
        };
        let items: Vec<&Expr<'a>> = match tasks {
            Some(Expr::List(list)) => list.items.iter().collect(),
            Some(Expr::Tuple(tuple)) => tuple.items.iter().collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        };
        if is_open || items.iter().any(|item| !matches!(item, Expr::Const(_))) {
            self.reference(vec!["outputs".to_owned()], whole_range(callee));
        }
        for item in items {
            match item {
                Expr::Const(id) => {
                    if let Some(id) = id.value.as_str() {
                        let path = ["outputs", id].into_iter().map(ToOwned::to_owned).chain(key.clone()).collect();
                        self.reference(path, range(item.span()));
                    }
                }
                other => self.expression(other),
            }
        }
        true
    }
}

/// `a.b['c']` as its names, when it is nothing but names.
fn path_of(expression: &Expr<'_>) -> Option<Vec<String>> {
    match expression {
        Expr::Var(name) => Some(vec![name.id.to_owned()]),
        Expr::GetAttr(get) => {
            let mut path = path_of(&get.expr)?;
            path.push(get.name.to_owned());
            Some(path)
        }
        Expr::GetItem(get) => {
            let Expr::Const(subscript) = &get.subscript_expr else { return None };
            let mut path = path_of(&get.expr)?;
            path.push(subscript.value.as_str()?.to_owned());
            Some(path)
        }
        _ => None,
    }
}

/// Where an expression stands, from its first name on.
fn whole_range(expression: &Expr<'_>) -> Range<usize> {
    root_span(expression).start_offset as usize..range(expression.span()).end
}

fn root_span(expression: &Expr<'_>) -> Span {
    match expression {
        Expr::GetAttr(get) => root_span(&get.expr),
        Expr::GetItem(get) => root_span(&get.expr),
        other => other.span(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(template: &str) -> Vec<(String, &str, bool)> {
        uses(template)
            .unwrap()
            .references
            .into_iter()
            .map(|reference| (reference.path.join("."), &template[reference.range], reference.is_guarded))
            .collect()
    }

    #[test]
    fn names_are_found_with_their_attributes_and_place() {
        assert_eq!(
            found("a {{ params.rows + 1 }} {{ outputs['x'].y }} {{ ds | upper }}"),
            [
                ("params.rows".to_owned(), "params.rows", false),
                ("outputs.x.y".to_owned(), "outputs['x'].y", false),
                ("ds".to_owned(), "ds", false)
            ]
        );
    }

    #[test]
    fn pulls_are_outputs() {
        assert_eq!(
            found("{{ ti.xcom_pull(task_ids='a', key='k') }}{{ ti.xcom_pull(['b', 'c'])[0] }}"),
            [
                ("ti".to_owned(), "ti.xcom_pull", false),
                ("outputs.a.k".to_owned(), "'a'", false),
                ("ti".to_owned(), "ti.xcom_pull", false),
                ("outputs.b".to_owned(), "'b'", false),
                ("outputs.c".to_owned(), "'c'", false)
            ]
        );
    }

    #[test]
    fn what_the_template_defines_or_guards_is_not_missed() {
        assert_eq!(found("{% for x in [1] %}{{ x }}{{ loop.index }}{% endfor %}{% set y = 1 %}{{ y }}"), []);
        assert_eq!(found("{{ params.a | default(1) }}"), [("params.a".to_owned(), "params.a", true)]);
        assert_eq!(found("{{ params.a is defined }}"), [("params.a".to_owned(), "params.a", true)]);
    }

    #[test]
    fn a_broken_template_says_where() {
        let problem = uses("select {{ ds").unwrap_err();
        assert!(!problem.message.is_empty());
        assert!(uses("{% if x %}").is_err());
    }

    #[test]
    fn what_can_never_be_rendered_is_found() {
        let mistakes = |template: &str| -> Vec<String> {
            uses(template).unwrap().mistakes.into_iter().map(|mistake| mistake.message).collect()
        };
        assert_eq!(mistakes("{{ ds | uper }}"), ["templates have no filter `uper`"]);
        assert_eq!(mistakes("{% if ds is emty %}{% endif %}"), ["templates have no test `emty`"]);
        assert_eq!(mistakes("{{ ti.xcom_pull('a', 'k') }}"), ["`xcom_pull` takes one argument without a name"]);
        assert_eq!(mistakes("{{ ti.xcom_pull('a', dag_id='b') }}"), ["`xcom_pull` takes no `dag_id` here"]);
        assert_eq!(mistakes("{{ ti.xcom_pull('a', map_indexes=[0, ti.map_index]) }}"), Vec::<String>::new());
        assert_eq!(mistakes("{{ ti.xcom_pull(key='k') }}"), ["`xcom_pull` needs `task_ids` here"]);
        assert_eq!(mistakes("{{ ti.xcom_pull(task_ids=params.t, key='k') | tojson }}"), Vec::<String>::new());
        for filter in FILTERS {
            assert!(has_filter(filter), "{filter}");
        }
        for test in TESTS {
            assert!(has_test(test), "{test}");
        }
    }

    #[test]
    fn a_lone_expression_is_told_from_text_around_it() {
        assert_eq!(lone_expression("{{ a + b }}"), Some(" a + b "));
        assert_eq!(lone_expression("{{- a -}}"), Some(" a "));
        assert_eq!(lone_expression("{{ a }}{{ b }}"), None);
        assert_eq!(lone_expression("x {{ a }}"), None);
    }
}
