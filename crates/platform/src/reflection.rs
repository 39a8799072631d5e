//! Server reflection of the services of one port, in both versions of the protocol.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::server::NamedService;
use tonic_reflection::{pb, server};

/// The two reflection services for the services called `names`.
///
/// # Errors
/// When the descriptors of the contract are not valid.
pub(crate) fn services(
    names: &[&str],
) -> Result<
    (
        server::v1::ServerReflectionServer<impl server::v1::ServerReflection>,
        server::v1alpha::ServerReflectionServer<impl server::v1alpha::ServerReflection>,
    ),
    server::Error,
> {
    let own = [
        server::v1::ServerReflectionServer::<server::v1::ReflectionService>::NAME,
        server::v1alpha::ServerReflectionServer::<server::v1alpha::ReflectionService>::NAME,
    ];
    let names: Vec<_> = names.iter().copied().chain(own).collect();
    let descriptors = describe(&names)?;
    let builder = || {
        let builder = server::Builder::configure().register_file_descriptor_set(descriptors.clone());
        names.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

/// Descriptors of the files that define the services called `names`, and of their dependencies.
fn describe(names: &[&str]) -> Result<FileDescriptorSet, server::Error> {
    let known = [
        phoenix_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        pb::v1::FILE_DESCRIPTOR_SET,
        pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut known_files = Vec::new();
    for set in known {
        known_files.extend(FileDescriptorSet::decode(set)?.file);
    }
    let mut needed: BTreeSet<String> = BTreeSet::new();
    let mut to_add: Vec<&FileDescriptorProto> =
        known_files.iter().filter(|file| defines_any(file, names)).collect();
    while let Some(file) = to_add.pop() {
        if needed.insert(file.name().to_owned()) {
            to_add.extend(
                known_files.iter().filter(|known| file.dependency.iter().any(|name| name == known.name())),
            );
        }
    }
    let file = known_files.into_iter().filter(|file| needed.remove(file.name())).collect();
    Ok(FileDescriptorSet { file })
}

fn defines_any(file: &FileDescriptorProto, names: &[&str]) -> bool {
    let mut defined = file.service.iter().map(|service| format!("{}.{}", file.package(), service.name()));
    defined.any(|name| names.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{client, listener, readiness::Readiness, server::GrpcServer, service_token::ServiceToken};

    /// Response of a server without services to `$request` in one version of the protocol.
    macro_rules! ask {
        ($version:ident, $channel:expr, $request:ident ( $argument:expr )) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
            };
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::$request($argument.into())),
            };
            let mut client = ServerReflectionClient::new($channel.clone());
            let mut answers =
                client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
            answers.message().await
        }};
    }

    #[tokio::test]
    async fn reflection_lists_the_services_of_the_port() {
        let listener = listener::bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let token = ServiceToken::new("of-the-test").unwrap();
        let channel = client::channel(&format!("http://{}", listener.local_addr().unwrap()), &token).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(GrpcServer::new(Readiness::needing(&[]), token).serve(listener, stop.clone()));
        let _stop = stop.drop_guard();

        let expected = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        macro_rules! check {
            ($version:ident) => {{
                use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
                let listed = ask!($version, channel, ListServices("")).unwrap().unwrap().message_response;
                let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
                    panic!("{listed:?}")
                };
                let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
                assert_eq!(names, expected);
                for name in expected {
                    ask!($version, channel, FileContainingSymbol(name)).unwrap().expect(name);
                }
                // As an error response, or as the status of the call.
                let unknown =
                    ask!($version, channel, FileContainingSymbol("phoenix.planner.v1.PlannerService"));
                let unknown = unknown.map(|answer| answer.and_then(|answer| answer.message_response));
                assert!(
                    !matches!(unknown, Ok(Some(MessageResponse::FileDescriptorResponse(_)))),
                    "the planner is not served: {unknown:?}"
                );
            }};
        }
        check!(v1);
        check!(v1alpha);
    }

    #[test]
    fn description_has_dependencies_and_no_other_service() {
        let services = |set: &FileDescriptorSet| -> Vec<String> {
            let services =
                set.file.iter().flat_map(|file| file.service.iter().map(|service| service.name().to_owned()));
            services.collect()
        };
        for name in ["Planner", "Executor"] {
            let full = format!("phoenix.{}.v1.{name}Service", name.to_lowercase());
            let described = describe(&[&full]).unwrap();
            assert!(services(&described).contains(&format!("{name}Service")));
            let other = if name == "Planner" { "ExecutorService" } else { "PlannerService" };
            assert!(!services(&described).contains(&other.to_owned()), "{name}: {:?}", services(&described));
            let has = |name: &String| described.file.iter().any(|file| file.name() == name);
            assert!(described.file.iter().flat_map(|file| &file.dependency).all(has), "{name}");
        }
    }
}
