//! The attempt of a mapped task: what it is expanded over becomes values, and these its instances.
//!
//! Nothing is written here. The step that records the attempt's end writes the instances with it: an attempt that dies
//! before leaves none, and the next one expands anew.

use serde_json::{Map, Value};

use crate::domain::dag::Task;
use crate::domain::mapping::{Expansion, Instance, MapLimits, Mapping, Over};
use crate::domain::template::{Outputs, RunFacts, TemplateError, TemplateScope};
use crate::engine::operator::Failure;

/// Expands a mapped task; nothing to expand over skips it.
pub(super) fn expand(
    templates: &TemplateScope,
    mapping: &Mapping,
    limits: MapLimits,
    label: impl Fn(u32, &Map<String, Value>) -> Result<Option<String>, TemplateError>,
) -> Result<Expansion, Failure> {
    let rendered = match &mapping.over {
        Over::Product(values) => {
            let value = |(key, value): (&String, &Value)| {
                Ok((key.clone(), templates.render_at(&format!("expand.{key}"), value)?))
            };
            values.iter().map(value).collect::<Result<Map<_, _>, TemplateError>>().map(Over::Product)
        }
        Over::Kwargs(items) => templates.render_at("expand_kwargs", items).map(Over::Kwargs),
    };
    let items = rendered?.items(limits).map_err(|error| Failure::fatal(&error))?;
    if items.is_empty() {
        return Err(Failure::Skip("it is expanded over nothing".to_owned()));
    }
    let labels = (0_u32..).zip(&items).map(|(map_index, item)| label(map_index, item));
    let labels = labels.collect::<Result<Vec<_>, TemplateError>>()?;
    Ok(Expansion { items, labels })
}

/// What an instance is called: its task's `map_index_template`, which sees the instance's own keys by their names.
pub(super) fn label(
    facts: &RunFacts,
    task: &Task,
    outputs: &Outputs,
    instance: Instance,
) -> Result<Option<String>, TemplateError> {
    let Some(template) = task.mapping.as_ref().and_then(|mapping| mapping.label.as_ref()) else { return Ok(None) };
    let own: Vec<(String, Value)> = instance.item.clone().into_iter().collect();
    let own: Vec<(&str, Value)> = own.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let scope = TemplateScope::for_instance(facts, task, 1, outputs.clone(), &instance);
    scope
        .render(template, &own)
        .map(Some)
        .map_err(|error| TemplateError { path: vec!["map_index_template".to_owned()], ..error })
}
