//! The settings that a stack or a service would start with, for `phoenix config` and `phoenix doctor`.

use std::path::PathBuf;

use phoenix_platform::config::{Lookup, Problems, Role, RoleFlags, RoleSettings, SettingValue, process_env};

use crate::{
    args::UpArgs,
    client::error::ClientError,
    role::executable,
    settings_args::SettingsArgs,
    up::{
        environment,
        error::StartError,
        plan::{Candidate, problems_of_stack},
    },
};

/// A service with its settings.
pub(crate) struct Service {
    pub(crate) role: Role,
    /// The flags that the operator, or `phoenix up`, gave it.
    flags: RoleFlags,
    pub(crate) settings: RoleSettings,
}

/// The settings of a stack or a service.
pub(crate) struct Resolved {
    /// The services whose settings are valid.
    pub(crate) services: Vec<Service>,
    pub(crate) problems: Problems,
    /// Variables that are set and have no effect.
    pub(crate) ignored: Option<String>,
    /// Whether the settings are those of `phoenix up`.
    pub(crate) is_stack: bool,
    /// Folder of the databases.
    pub(crate) data_dir: PathBuf,
}

impl Resolved {
    /// Resolves the settings that `args` are about.
    ///
    /// # Errors
    /// When the command line is not valid.
    pub(crate) fn new(args: &SettingsArgs) -> Result<Self, ClientError> {
        let exe = executable()
            .map_err(|error| ClientError::Unsuccessful(format!("cannot find its own executable: {error}")))?;
        let variable = || process_env("PHOENIX_DATA_DIR").map(PathBuf::from);
        let data_dir = args.flags.data_dir.clone().or_else(variable).unwrap_or_else(|| "data".into());
        match args.role {
            Some(role) => Ok(Self::of_role(role, &args.flags, &exe, data_dir)),
            None => Self::of_stack(args, &exe, data_dir),
        }
    }

    fn of_role(role: Role, flags: &RoleFlags, exe: &str, data_dir: PathBuf) -> Self {
        let mut resolved = Self {
            services: Vec::new(),
            problems: Problems::default(),
            ignored: None,
            is_stack: false,
            data_dir,
        };
        match RoleSettings::resolve(role, flags, exe, &process_env) {
            Ok(settings) => resolved.services.push(Service { role, flags: flags.clone(), settings }),
            Err(problems) => resolved.problems = problems,
        }
        resolved
    }

    fn of_stack(args: &SettingsArgs, exe: &str, data_dir: PathBuf) -> Result<Self, ClientError> {
        let RoleFlags { config, log_format, data_dir: _, .. } = &args.flags;
        let only = RoleFlags {
            config: config.clone(),
            log_format: log_format.clone(),
            data_dir: args.flags.data_dir.clone(),
            ..RoleFlags::default()
        };
        if format!("{only:?}") != format!("{:?}", args.flags) {
            let problem = "the flags of a service need --role; `phoenix up` has --config, --data-dir, --log-format and \
                           --port-offset";
            return Err(ClientError::Usage(problem.into()));
        }
        let up = UpArgs {
            port_offset: args.port_offset,
            data_dir: data_dir.clone(),
            config: config.clone().or_else(|| process_env("PHOENIX_CONFIG").map(PathBuf::from)),
            log_format: log_format.clone(),
            no_log_files: false,
        };
        let candidates = Candidate::all(&up, exe).map_err(|error| match error {
            StartError::Settings(problems) => ClientError::Usage(problems.to_string()),
            StartError::System(problem) => ClientError::Unsuccessful(problem),
        })?;
        let ignored = environment::ignored(args.port_offset);
        let mut resolved =
            Self { services: Vec::new(), problems: Problems::default(), ignored, is_stack: true, data_dir };
        for Candidate { role, mut flags, settings, .. } in candidates {
            match settings {
                Ok(settings) => {
                    resolved.problems.extend(problems_of_stack(&settings.config));
                    // Not a flag of the operator when it comes from the environment or from the default.
                    flags.data_dir.clone_from(&args.flags.data_dir);
                    let is_variable = role == Role::Gateway
                        && args.port_offset == 0
                        && flags.addr.is_some()
                        && flags.addr == process_env("HTTP_ADDR");
                    if is_variable {
                        flags.addr = None;
                    }
                    resolved.services.push(Service { role, flags, settings });
                }
                Err(found) => resolved.problems.extend(found),
            }
        }
        Ok(resolved)
    }

    /// The settings of a service, if they are valid.
    pub(crate) fn service(&self, role: Role) -> Option<&Service> {
        self.services.iter().find(|service| service.role == role)
    }

    /// Every setting with its value and its origin: of each service, then of all.
    pub(crate) fn inventory(&self) -> Vec<SettingValue> {
        let lookup: Lookup<'_> = if self.is_stack { &environment::read } else { &process_env };
        // In the order in which a request meets them.
        let order = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];
        let services = order.iter().filter_map(|role| self.service(*role));
        let own = services.flat_map(|Service { flags, settings, .. }| {
            settings.inventory(flags, lookup, &|name| self.is_of_up(name))
        });
        let mut rows: Vec<_> = own.collect();
        rows.extend(
            self.services.first().map(|first| first.settings.config.inventory(lookup)).into_iter().flatten(),
        );
        rows
    }

    /// Whether `phoenix up` decides on the flag `name` of its services.
    fn is_of_up(&self, name: &str) -> bool {
        self.is_stack && !matches!(name, "--config" | "--data-dir" | "--log-format")
    }
}
