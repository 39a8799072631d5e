//! What a process says of itself to a collector.

use super::settings::ResourceSettings;

/// Attributes of the process: configured ones override the built-in ones, and `OTEL_SERVICE_NAME` overrides both.
pub(super) fn attributes(service: &str, settings: &ResourceSettings) -> Vec<(String, String)> {
    let own = [
        ("service.name", format!("phoenix-{service}")),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        // Distinguishes processes that share a service name.
        ("phoenix.role", service.to_owned()),
    ];
    let mut attributes: Vec<_> = own.map(|(name, value)| (name.to_owned(), value)).into();
    let named = settings.service_name.iter().map(|name| ("service.name".to_owned(), name.clone()));
    for (name, value) in settings.attributes.iter().cloned().chain(named) {
        match attributes.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => attributes.push((name, value)),
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_attributes_override_built_in_ones() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let settings = ResourceSettings {
            service_name: Some("mine".into()),
            attributes: vec![pair("service.name", "theirs"), pair("team", "a")],
        };
        let found = attributes("planner", &settings);
        assert!(found.contains(&pair("service.name", "mine")) && found.contains(&pair("team", "a")));
        assert!(found.contains(&pair("phoenix.role", "planner")));
        assert_eq!(found.iter().filter(|(name, _)| name == "service.name").count(), 1);
    }
}
