//! An agent of protocol version 1 as it was built then: its messages are kept as bytes.

use fieldfare_controller_peers::Fleet;
use fieldfare_controller_peers::device::Session;
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_proto::v1::{DeviceMessage, GetDeviceRequest, RolloutPhase, TokenRole, device_message, gateway_message};
use prost::Message;

use crate::rollouts::{apply, outcome, spec};

/// Written by an agent of version 1, in hexadecimal: its hello, and what it says when release 1 of `soil` serves.
const HELLO: &str = include_str!("compatibility/hello-1.hex");
const OBSERVED: &str = include_str!("compatibility/observed-1.hex");

fn read(text: &str) -> device_message::Message {
    let bytes = hex::decode(text.trim()).unwrap();
    DeviceMessage::decode(bytes.as_slice()).unwrap().message.unwrap()
}

#[tokio::test]
async fn an_agent_of_version_1_is_told_what_to_run_and_is_believed() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    let device_message::Message::Hello(hello) = read(HELLO) else {
        panic!("no hello")
    };
    assert_eq!(hello.protocol_version, 1);
    let mut session = Session::open(&fleet, &device, hello).await.unwrap();
    assert_eq!(session.welcome.protocol_version, 1);
    apply(&fleet, spec(1)).await.unwrap();
    let named = loop {
        // Before the first wave reaches the device, its entry names no release.
        if let Some(gateway_message::Message::Desired(desired)) = session.next().await.unwrap()
            && let Some(model) = desired.models.first()
            && !model.manifest_target.is_empty()
        {
            break model.manifest_target.clone();
        }
    };
    assert_eq!(named, release(1).name.to_string());
    session.send(read(OBSERVED)).await;
    let last = outcome(&fleet).await;
    assert_eq!(last.phase(), RolloutPhase::Completed, "{last:?}");
    let request = GetDeviceRequest { device: "north".into() };
    let shown = fleet.operator().await.get_device(request).await.unwrap().into_inner();
    assert_eq!(
        (shown.agent_version.as_str(), shown.labels["site"].as_str()),
        ("0.1.0", "north")
    );
    fleet.stop().await;
}
