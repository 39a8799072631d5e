//! All settings of a process with their origin, for `phoenix config show`.

mod agents;
mod llm;
mod role;

use super::{
    env::Lookup,
    file::PhoenixConfig,
    values::{Origin, SettingValue},
};

impl PhoenixConfig {
    /// The configuration file that was read, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        self.file.path.as_deref()
    }

    /// The settings that all roles share: models, agents and budgets, then what else the file has.
    #[must_use]
    pub fn inventory(&self, env: Lookup<'_>) -> Vec<SettingValue> {
        let mut rows = Vec::new();
        llm::add(self, env, &mut rows);
        agents::add(self, &mut rows);
        let is_covered = |key: &str| rows.iter().any(|row: &SettingValue| row.origin.detail() == key);
        let roles = ["gateway.", "planner.", "executor.", "health.", "database."];
        let rest = self
            .file
            .values
            .iter()
            .filter(|(key, _)| !is_covered(key) && !roles.iter().any(|role| key.starts_with(role)));
        let rest = rest.map(|(key, value)| SettingValue {
            name: key.clone(),
            value: value.text.clone(),
            origin: Origin::File { key: key.clone(), variables: value.variables.clone() },
        });
        let rest: Vec<_> = rest.collect();
        rows.extend(rest);
        rows
    }
}

#[cfg(test)]
mod tests;
