//! The model settings of the built-in language-model agent.

use std::{
    io::Read,
    os::{linux::net::SocketAddrExt, unix::net},
};

use phoenix_domain::{AgentMode, AgentSpec};

use crate::sandbox::{PROGRAM, Sandbox, agent};

const KEY: &str = "sk-very-secret-0123456789";

#[tokio::test]
async fn llm_agent_collects_its_keys_over_a_socket() {
    for mode in [AgentMode::Oneshot, AgentMode::Workers] {
        let mut spec = AgentSpec { mode, ..agent(&["llm-router"]) };
        spec.env.push("PHOENIX_LLM_SETTINGS".into());
        let sandbox = Sandbox::start_with(spec, |config| {
            config.llm.openai.api_key = Some(KEY.to_owned().into());
            config.executable = Some(PROGRAM.into());
        })
        .await;
        let data = sandbox.run().await.data();
        assert!(data["settings"].as_str().unwrap().contains(KEY), "{data}");
        let environment = data["environment"].as_object().unwrap();
        let names: Vec<_> = environment.keys().collect();
        assert_eq!(names, ["PATH", "PHOENIX_EXECUTOR", "PHOENIX_LLM_SETTINGS_SOCKET", "TEST_TAG"]);
        assert!(environment.values().all(|value| !value.as_str().unwrap().contains(KEY)), "{environment:?}");

        // This process is none that the executor started.
        let name = environment["PHOENIX_LLM_SETTINGS_SOCKET"].as_str().unwrap();
        let address = net::SocketAddr::from_abstract_name(name).unwrap();
        let stolen = tokio::task::spawn_blocking(move || {
            let mut stolen = String::new();
            net::UnixStream::connect_addr(&address).unwrap().read_to_string(&mut stolen).map(|_| stolen)
        });
        assert_eq!(stolen.await.unwrap().unwrap(), "");
        sandbox.stop().await;
    }
}
