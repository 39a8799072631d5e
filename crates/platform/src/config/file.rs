//! The configuration file `phoenix.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use phoenix_domain::{
    AgentCatalog, budget::BudgetSettings, builtin::llm_router, llm::LlmSettings, planning::PlanningSettings,
};

use super::{
    agents::agents,
    budgets::BudgetsTable,
    confidential::Confidential,
    env::Lookup,
    interpolate,
    planning::PlanningTable,
    problems::Problems,
    role::Role,
    sections::{
        self, DatabaseSection, DatabaseTable, ExecutorSection, ExecutorTable, GatewaySection, GatewayTable,
        HealthTable, PlannerSection, PlannerTable, RoleSection, section,
    },
    values::FileValues,
};

/// Path of the file unless one is named.
const DEFAULT_PATH: &str = "phoenix.toml";

/// The configuration file with defaults filled in. The same in every service.
#[derive(Debug, Clone)]
pub struct PhoenixConfig {
    /// `[agents]`, for the executor: the other services learn its agents from its catalog.
    pub agents: AgentCatalog,
    /// `[budgets]`, for the planner.
    pub budgets: BudgetSettings,
    /// `[planning]`, for the planner.
    pub planning: PlanningSettings,
    /// `[llm]`.
    pub llm: LlmSettings,
    /// `[gateway]`.
    pub gateway: GatewaySection,
    /// `[planner]`.
    pub planner: PlannerSection,
    /// `[database]`.
    pub database: DatabaseSection,
    /// `[executor]`.
    pub executor: ExecutorSection,
    /// Addresses and databases by role.
    pub(super) roles: BTreeMap<Role, RoleSection>,
    /// Variables whose values only the executor needs: those in provider keys and agent commands.
    pub(super) executor_variables: BTreeSet<String>,
    /// Values that error messages must not contain.
    pub(super) confidential: Confidential,
    /// The values of the file, for [`PhoenixConfig::inventory`].
    pub(super) file: FileValues,
}

impl PhoenixConfig {
    /// Reads the file at `path`, or `phoenix.toml` in the current directory if it exists. `exe` is the executable that runs the
    /// built-in agents.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn load(path: Option<&Path>, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        let (path, text) = match path {
            Some(path) => (path, Some(read(path)?)),
            // An existing but unreadable file is a problem, not an absent file.
            None => (Path::new(DEFAULT_PATH), read_if_exists(Path::new(DEFAULT_PATH))?),
        };
        let mut config = Self::parse_at(path, text.as_deref().unwrap_or_default(), exe, env)?;
        config.file.path = text.map(|_| path.to_owned());
        Ok(config)
    }

    /// As [`load`](Self::load), from the text of a file in the current directory.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        Self::parse_at(Path::new(DEFAULT_PATH), text, exe, env)
    }

    /// The problem of a default agent that is not among the agents of the file. For a stack with a single executor, which reads
    /// the same file: elsewhere, another executor may offer the agent.
    #[must_use]
    pub fn unknown_default_agent(&self) -> Problems {
        let mut problems = Problems::default();
        if let Some(name) = &self.planner.default_agent
            && self.agents.get(name).is_err()
        {
            let known: Vec<_> = self.agents.iter().map(|spec| spec.name.as_str()).collect();
            let problem = format!("unknown agent `{name}`; configured agents: {}", known.join(", "));
            problems.add("planner.default_agent", problem);
        }
        problems.redacted(&self.confidential)
    }

    /// Names of the addresses and of the databases in files that the file sets, such as `planner.grpc_addr`. A database of
    /// PostgreSQL is not among them: any number of processes may use it.
    #[must_use]
    pub fn configured_endpoints(&self) -> Vec<String> {
        sections::configured_endpoints(&self.roles)
    }

    /// Variables of the file whose values only the executor needs: those in provider keys and agent commands.
    #[must_use]
    pub const fn executor_variables(&self) -> &BTreeSet<String> {
        &self.executor_variables
    }

    fn parse_at(path: &Path, text: &str, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut root = match text.parse::<toml::Table>() {
            Ok(table) => toml::Value::Table(table),
            Err(error) => {
                // The error's own text quotes the line, which may hold a key.
                problems.add(position(path, text, &error), error.message());
                return Err(problems);
            }
        };
        let executor_variables = executor_variables(&root);
        let file = FileValues::of(&root);
        let mut confidential = Confidential::default();
        interpolate::table(&mut root, "", env, &mut confidential, &mut problems);
        confidential.add_secret_fields(&root, &mut Vec::new());
        let folder = path.parent().unwrap_or(path);
        let config = Self::from_sections(root, folder, exe, env, &mut problems);
        match config {
            Some(config) if problems.is_empty() => {
                Ok(Self { executor_variables, confidential, file, ..config })
            }
            _ => Err(problems.redacted(&confidential)),
        }
    }

    fn from_sections(
        root: toml::Value,
        folder: &Path,
        exe: &str,
        env: Lookup<'_>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let toml::Value::Table(mut tables) = root else { return None };
        for unknown in tables.keys().filter(|name| !sections::NAMES.contains(&name.as_str())) {
            let known = sections::NAMES.join(", ");
            problems.add(unknown, format_args!("unknown section; there are {known}"));
        }
        let mut take =
            |name: &str| tables.remove(name).unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
        let gateway: GatewayTable = section("gateway", take("gateway"), problems);
        let planner: PlannerTable = section("planner", take("planner"), problems);
        let executor: ExecutorTable = section("executor", take("executor"), problems);
        let health: HealthTable = section("health", take("health"), problems);
        let database: DatabaseTable = section("database", take("database"), problems);
        let mut llm: LlmSettings = section("llm", take("llm"), problems);
        let variables = llm.fill_from_environment(env);
        for (setting, problem) in llm.problems(&variables) {
            problems.add(setting, problem);
        }
        let budgets: BudgetsTable = section("budgets", take("budgets"), problems);
        let budgets = budgets.into_settings(&llm, problems);
        let planning: PlanningTable = section("planning", take("planning"), problems);
        let planning = planning.into_settings(problems);
        let mut agents = agents(take("agents"), folder, exe, problems);
        if let Some(router) = agents.get_mut(&llm_router()) {
            router.provider = llm.first_provider();
            router.provider_is_configured = llm.chosen_provider().is_some();
        }
        let (gateway, gateway_role) = gateway.into_sections(problems);
        let (planner, planner_role) = planner.into_sections(problems);
        let (executor, executor_role) = executor.into_sections(problems);
        Some(Self {
            agents: AgentCatalog::with_default(agents.into_values(), planner.default_agent.clone()),
            budgets,
            planning,
            llm,
            gateway,
            planner,
            database: database.into_section(problems),
            executor,
            roles: BTreeMap::from([
                (Role::Gateway, gateway_role),
                (Role::Planner, planner_role),
                (Role::Executor, executor_role),
                (Role::Health, health.into()),
            ]),
            executor_variables: BTreeSet::new(),
            confidential: Confidential::default(),
            file: FileValues::default(),
        })
    }
}

fn read(path: &Path) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

/// The text of the file, if it exists. A dangling link is an unreadable file.
fn read_if_exists(path: &Path) -> Result<Option<String>, Problems> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => Ok(None),
        read => read.map(Some).map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problems {
    let mut problems = Problems::default();
    // With the folder, which is often the cause.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    problems.add(path.display(), format_args!("the configuration file cannot be read: {error}"));
    problems
}

/// File, line and column of a syntax error.
fn position(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{}, line {line}, column {column}", path.display())
        }
        None => path.display().to_string(),
    }
}

/// Variables that only the executor needs: those in provider keys, agent commands and MCP servers.
fn executor_variables(root: &toml::Value) -> BTreeSet<String> {
    let tables = |section: &str| {
        let tables = root.get(section).and_then(toml::Value::as_table);
        tables.into_iter().flat_map(|table| table.values())
    };
    let providers = root.get("llm").and_then(|llm| llm.get("providers")).and_then(toml::Value::as_table);
    let own = providers.into_iter().flat_map(|table| table.values());
    let keys = tables("llm").chain(own).filter_map(|provider| provider.get("api_key"));
    let programs = ["command", "mcp"];
    let commands = tables("agents").flat_map(|agent| programs.iter().filter_map(|name| agent.get(name)));
    keys.chain(commands).flat_map(interpolate::names_in).collect()
}

#[cfg(test)]
mod tests;
