//! Executables that the tests start.

use std::{env, path::PathBuf};

use tokio::process::Command;

use crate::{
    failure::{Context, Result},
    phases::{cargo, execute, target_directory},
    programs,
};

/// Paths of the executables that the tests start.
pub(crate) struct Binaries {
    phoenix: PathBuf,
    load_tester: PathBuf,
    /// Variables of the installed programs from PyPI, and of the packages from npm.
    installed: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// Sets the environment variables of `command` for the paths.
    pub(crate) fn set_env(&self, command: &mut Command) {
        command.env("PHOENIX_BIN", &self.phoenix).env("LOAD_TESTER_BIN", &self.load_tester);
        command.envs(self.installed.iter().map(|(name, path)| (name, path)));
    }
}

/// Builds the packages `what`, which include the executables.
pub(crate) async fn build(what: &[&str]) -> Result<Binaries> {
    execute(cargo().arg("build").args(what)).await?;
    let debug = target_directory().await?.join("debug");
    let binary = |name: &str| {
        let path = debug.join(name).with_extension(env::consts::EXE_EXTENSION);
        path.is_file().then_some(path).ok_or("the build made no such program").context(name)
    };
    let mut installed = Vec::new();
    for program in programs::PYTHON_PROGRAMS {
        installed.extend(program.path().await?.map(|path| (program.variable, path)));
    }
    installed.extend(programs::npm::path().await?.map(|path| (programs::npm::VARIABLE, path)));
    Ok(Binaries { phoenix: binary("phoenix")?, load_tester: binary("load_tester")?, installed })
}
