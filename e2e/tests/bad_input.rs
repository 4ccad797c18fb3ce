//! Hostile input: each bad value in every field where it fits. The driver returns an error with the right code, or the
//! OK that CSI requires. Nothing on any export changes, and no secret is logged.

use std::fs;
use std::path::Path;

use crate::support::requests::{self, map};
use crate::support::{Code, Driver, Lab, Place, Share, Tree, csi, mounts};

/// Values that are not valid as a path component, a server, an ID, a policy or a number.
fn hostile() -> Vec<String> {
    let mut values: Vec<String> = [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "/",
        "//",
        "a//b",
        "a\0b",
        "\0",
        "a\nb",
        "\n",
        "#",
        "a#b",
        "s###",
        "s#a##",
        "s#a#.#u#",
        "--bind",
        "-overs=3",
        "h,opt",
        "8",
        "77777777777",
        "Delete ",
        ".csi-nfs",
        "/.csi-nfs/",
        ".csi-nfs/volumes",
        "archived-x",
        "\u{1b}[2J",
        "a\tb",
        "\u{7f}",
    ]
    .map(str::to_owned)
    .into();
    values.push("n".repeat(256));
    values.push("n/".repeat(2500));
    values
}

/// Values that look strange but are plain names. The driver may accept them as names or refuse them, and must not
/// interpret them.
const STRANGE: [&str; 4] = ["%2e%2e", "données", "[::1]", "a b"];

/// Exports with volumes, to check that nothing changes.
struct Scene {
    lab: Lab,
    driver: Driver,
    share: Share,
    volume: csi::Volume,
    before: Tree,
}

impl Scene {
    async fn set() -> Self {
        // No other test may run, because a bad path could lead into its share.
        let lab = Lab::alone().await;
        let driver = Driver::start().await;
        let share = lab.share(Place::Xfs);
        let volume = driver.create(requests::create(&share, "bystander")).await.unwrap();
        driver.create(requests::create_with(&share, "nested", "subDir", "a/b")).await.unwrap();
        fs::write(share.path.join("bystander/file"), "x").unwrap();
        fs::write(share.path.join("a/b/file"), "x").unwrap();
        let before = Tree::of(Path::new("/srv/xfs"));
        Self { lab, driver, share, volume, before }
    }

    fn assert_unchanged(&self, what: &str) {
        self.before.assert_unchanged(what);
    }

    /// A volume ID on this share.
    fn id(&self, rest: &str) -> String {
        format!("127.0.0.1#{}#{rest}", &self.share.share[1..])
    }
}

#[tokio::test]
async fn parameters_of_a_new_volume() {
    let scene = Scene::set().await;
    for value in hostile() {
        for key in ["server", "share", "subDir", "onDelete", "mountPermissions", "uid", "gid"] {
            let fits = match key {
                // Without this parameter, the directory is named after the volume, as with csi-driver-nfs.
                "subDir" => ["", "/", "--bind", "-overs=3", "h,opt", "8", "77777777777", "Delete "].contains(&&*value),
                "uid" | "gid" => value == "8" || value == "77777777777" && value.parse::<u32>().is_ok(),
                // The root of this server is not writable, or does not exist.
                "share" => {
                    ["/", "--bind", "-overs=3", "h,opt", "8", "77777777777", "Delete ", "archived-x"].contains(&&*value)
                }
                "server" => ["8", "77777777777", "archived-x"].contains(&&*value),
                _ => false,
            };
            if fits {
                continue;
            }
            let request = requests::create_with(&scene.share, "new", key, &value);
            let status = scene.driver.create(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{key} {value:?}: {status}");
            assert!(status.message().contains(key), "{key} {value:?}: {status}");
            assert!(!status.message().chars().any(char::is_control), "{key} {value:?}: {status}");
        }
        let capacity = csi::GetCapacityRequest {
            parameters: map([("server", &value), ("share", &scene.share.share)]),
            ..Default::default()
        };
        if value.is_empty() || value.contains(['/', '#', '\0', '\n', ',', ' ']) {
            let status = scene.driver.controller().get_capacity(capacity).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "server {value:?}: {status}");
        }
    }
    for share in [".csi-nfs", ".csi-nfs/volumes", "/.csi-nfs/trash/"] {
        let inside = format!("{}/{share}", scene.share.share);
        let status =
            scene.driver.create(requests::create_with(&scene.share, "new", "share", &inside)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{inside}: {status}");
    }
    for key in ["", "subdirectory", "shar", "csi.storage.k8s.i/pvc/name", "a\nb", "s###"] {
        let status = scene.driver.create(requests::create_with(&scene.share, "new", key, "x")).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key:?}: {status}");
    }
    scene.assert_unchanged("a bad parameter");
}

#[tokio::test]
async fn values_that_templates_take() {
    let scene = Scene::set().await;
    for value in ["", ".", "..", "../x", "a/b", "/", "a\0b", "a\nb", "a#b", ".csi-nfs", "archived-x", &"n".repeat(256)]
    {
        let mut request = requests::create_with(&scene.share, "new", "subDir", "${pvc.metadata.name}");
        request.parameters.insert("csi.storage.k8s.io/pvc/name".into(), value.into());
        let status = scene.driver.create(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{value:?}: {status}");
    }
    for template in ["${pvc.metadata.name}", "${", "${}", "${pvc.metadata.uid}", "a/${pv.metadata.name}/../../b"] {
        let request = requests::create_with(&scene.share, "new", "subDir", template);
        let status = scene.driver.create(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{template:?}: {status}");
    }
    scene.assert_unchanged("a bad template");
}

#[tokio::test]
async fn names_of_new_volumes() {
    let scene = Scene::set().await;
    for value in hostile() {
        if ["--bind", "-overs=3", "h,opt", "8", "77777777777", "Delete "].contains(&&*value) {
            continue; // These values are valid names.
        }
        let status = scene.driver.create(requests::create(&scene.share, &value)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{value:?}: {status}");
    }
    scene.assert_unchanged("a bad name");
}

#[tokio::test]
async fn strange_names_are_plain_names() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    for name in STRANGE.into_iter().chain(["--bind", "-overs=3", "h,opt", "Delete "]) {
        let volume = driver.create(requests::create(&share, name)).await.unwrap();
        assert_eq!(share.names(), [name]);
        let target = driver.target("pod");
        driver.publish(&volume, &target).await.unwrap();
        fs::write(target.join("file"), "x").unwrap();
        assert!(share.path.join(name).join("file").is_file(), "{name}");
        driver.unpublish(&volume.volume_id, &target).await.unwrap();
        driver.delete(&volume.volume_id).await.unwrap();
        assert!(share.names().is_empty());
    }
}

#[tokio::test]
async fn identifiers() {
    let scene = Scene::set().await;
    let mut ids = hostile();
    ids.extend(
        [
            "##",
            "/##",
            ".##",
            "..##",
            "a/../b##",
            "../x##",
            "a//b##",
            ".csi-nfs##",
            ".csi-nfs/volumes##",
            "a\0b##",
            "a\nb##",
            "bystander#x/y#",
            "bystander#..#",
            "bystander##Delete ",
            "bystander##shred",
            "bystander###",
            "bystander#u#d#x",
        ]
        .map(|rest| scene.id(rest)),
    );
    ids.extend(["%2e%2e", "données", "[::1]", "a"].map(str::to_owned));
    ids.extend(["--bind", "-overs=3", "h,opt", "", "a b", "\n"].map(|server| format!("{server}#xfs#bystander##")));
    ids.extend(["..", "a/../xfs", "xfs\0", "xfs/.", "//xfs"].map(|share| format!("127.0.0.1#{share}#bystander##")));
    ids.push(scene.id(&format!("{}##", "n".repeat(256))));
    ids.push(scene.id(&format!("{}##", "n/".repeat(2500))));
    for id in ids {
        // CSI requires OK for the deletion of a volume that cannot exist. A request without an ID is an error.
        let deleted = scene.driver.delete(&id).await.map_err(|status| status.code());
        assert_eq!(deleted, if id.is_empty() { Err(Code::InvalidArgument) } else { Ok(()) }, "{id:?}");

        let mut controller = scene.driver.controller();
        let volume_id = id.clone();
        let expand = csi::ControllerExpandVolumeRequest {
            volume_id,
            capacity_range: requests::bytes(1 << 21),
            ..Default::default()
        };
        let expanded = controller.controller_expand_volume(expand).await.map(drop);
        let modify = csi::ControllerModifyVolumeRequest {
            volume_id: id.clone(),
            mutable_parameters: map([("uid", "7")]),
            ..Default::default()
        };
        let modified = controller.controller_modify_volume(modify).await.map(drop);
        let get = csi::ControllerGetVolumeRequest { volume_id: id.clone() };
        let got = controller.controller_get_volume(get).await.map(drop);
        let validate = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: id.clone(),
            volume_capabilities: vec![requests::shared()],
            ..Default::default()
        };
        let validated = controller.validate_volume_capabilities(validate).await.map(drop);
        let health = csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), ..Default::default() };
        let healthy = controller.controller_get_volume_health(health).await.map(drop);
        let target = scene.driver.target("pod");
        let volume = csi::Volume { volume_id: id.clone(), ..Default::default() };
        let published = scene.driver.publish(&volume, &target).await;
        // A handle that nobody generated may be that of a static volume, whose size is nominal.
        let nominal = if id.is_empty() { Err(Code::InvalidArgument) } else { Ok(()) };
        assert_eq!(expanded.map_err(|status| status.code()), nominal, "{id:?}");
        let calls = [modified, got, validated, healthy, published];
        for (call, answer) in calls.into_iter().enumerate() {
            let code = answer.unwrap_err().code();
            let expected: &[Code] = if id.is_empty() {
                &[Code::InvalidArgument]
            } else {
                // No volume has such a name.
                &[Code::InvalidArgument, Code::NotFound]
            };
            assert!(expected.contains(&code), "call {call} with {id:?}: {code:?}");
        }
        assert!(mounts::at(&target).is_empty(), "{id:?}");
    }
    scene.assert_unchanged("a bad identifier");
}

#[tokio::test]
async fn what_a_node_is_to_mount() {
    let scene = Scene::set().await;
    let target = scene.driver.target("pod");
    for value in hostile() {
        for key in ["server", "share", "subDir", "mountPermissions"] {
            let fits = match key {
                "subDir" => ["", "/", "--bind", "-overs=3", "h,opt", "8", "77777777777", "Delete ", "archived-x"]
                    .contains(&&*value),
                "share" => {
                    ["/", "--bind", "-overs=3", "h,opt", "8", "77777777777", "Delete ", "archived-x"].contains(&&*value)
                }
                "server" => ["8", "77777777777", "archived-x"].contains(&&*value),
                _ => false,
            };
            if fits {
                continue;
            }
            let mut volume = scene.volume.clone();
            volume.volume_context.insert(key.into(), value.clone());
            let status = scene.driver.publish(&volume, &target).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{key} {value:?}: {status}");
        }
        let mut request = requests::publish(&scene.volume, &target);
        request.volume_capability =
            Some(requests::mounted(csi::volume_capability::access_mode::Mode::MultiNodeMultiWriter, &[&value]));
        if !value.is_empty() {
            let status = scene.driver.node().node_publish_volume(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "option {value:?}: {status}");
        }
        assert!(mounts::at(&target).is_empty(), "{value:?}");
    }
    scene.assert_unchanged("a bad context");
}

#[tokio::test]
async fn paths_on_the_node() {
    let scene = Scene::set().await;
    let driver = &scene.driver;
    let base = driver.path("pods").display().to_string();
    fs::create_dir_all(driver.path("pods/a")).unwrap();
    let published = driver.target("published");
    driver.publish(&scene.volume, &published).await.unwrap();
    let table = mounts::all();
    let mut paths = hostile();
    paths.retain(|path| path != "/.csi-nfs/"); // This is an ordinary directory of the node.
    paths.extend(["/..", "/../x", "/proc/self/root", "relative/path", "a\0b"].map(str::to_owned));
    paths.extend(["..", "a/..", "a/../../x", "a\0b", &"n".repeat(256)].map(|last| format!("{base}/{last}")));
    for path in paths {
        let publish = requests::publish(&scene.volume, Path::new(&path));
        assert!(driver.node().node_publish_volume(publish).await.is_err(), "{path:?}");
        // Unpublishing a target that was never published succeeds. A value that is not a path is an error.
        let _ =
            driver.node().node_unpublish_volume(requests::unpublish(&scene.volume.volume_id, Path::new(&path))).await;
        let stats = driver.stats(&scene.volume.volume_id, Path::new(&path)).await.unwrap_err();
        let expected = if path.is_empty() { Code::InvalidArgument } else { Code::NotFound };
        assert_eq!(stats.code(), expected, "{path:?}: {stats}");
        assert_eq!(mounts::all(), table, "{path:?}");
    }
    assert!(driver.path("pods/a").is_dir());
    driver.unpublish(&scene.volume.volume_id, &published).await.unwrap();
    scene.assert_unchanged("a bad path on the node");
}

#[tokio::test]
async fn no_secret_reaches_the_log_or_an_error() {
    const SECRET: &str = "hunter2-of-the-secret";
    let scene = Scene::set().await;
    let driver = Driver::with(&["-v=9", "--log-format=json"]).await;
    let secrets = || map([("password", SECRET), ("mountOptions", "vers=4.2"), ("token", SECRET)]);
    let mut messages = String::new();
    let mut told = |answer: Result<(), tonic::Status>| messages.extend(answer.err().map(|status| status.to_string()));

    let mut controller = driver.controller();
    let mut create = requests::create(&scene.share, "secret");
    create.secrets = secrets();
    let volume = driver.create(create.clone()).await.unwrap();
    let id = volume.volume_id.clone();
    create.capacity_range = requests::bytes(1 << 40);
    told(driver.create(create.clone()).await.map(drop));
    // The secrets are bad, or are not allowed.
    create.secrets.insert("mountOptions".into(), format!("bind,{SECRET}"));
    told(driver.create(create.clone()).await.map(drop));
    create.name = "#".into();
    told(driver.create(create).await.map(drop));
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![requests::shared()],
        secrets: secrets(),
        ..Default::default()
    };
    told(controller.validate_volume_capabilities(validate).await.map(drop));
    let expand = csi::ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: requests::bytes(1 << 21),
        secrets: secrets(),
        ..Default::default()
    };
    told(controller.controller_expand_volume(expand).await.map(drop));
    let modify = csi::ControllerModifyVolumeRequest {
        volume_id: id.clone(),
        secrets: secrets(),
        mutable_parameters: map([("uid", "x")]),
    };
    told(controller.controller_modify_volume(modify).await.map(drop));
    let health = csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), secrets: secrets() };
    told(controller.controller_get_volume_health(health).await.map(drop));
    let mut publish = requests::publish(&volume, &driver.target("pod"));
    publish.secrets = secrets();
    publish.publish_context = secrets();
    told(driver.node().node_publish_volume(publish).await.map(drop));
    let storage = csi::NodeGetStorageHealthRequest { secrets: secrets() };
    told(driver.node().node_get_storage_health(storage).await.map(drop));
    driver.unpublish(&id, &driver.target("pod")).await.unwrap();
    for secrets in [map([("mountOptions", &format!("{SECRET}=1"))]), secrets()] {
        let delete = csi::DeleteVolumeRequest { volume_id: id.clone(), secrets };
        told(controller.delete_volume(delete).await.map(drop));
    }

    let log = driver.log();
    assert!(log.contains("DeleteVolume") && log.contains("secret##"), "the log does not show the calls:\n{log}");
    assert!(!log.contains(SECRET), "a secret is in the log");
    assert!(!messages.is_empty() && !messages.contains(SECRET), "a secret is in an error: {messages}");
    // The secret is not on the export either.
    share_without(&scene.share, SECRET);
    drop(scene.lab);
}

fn share_without(share: &Share, secret: &str) {
    let mut open = vec![share.path.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let link = fs::read_link(&path).map(|target| target.into_os_string().into_encoded_bytes());
            let content = link.or_else(|_| fs::read(&path)).unwrap();
            assert!(!String::from_utf8_lossy(&content).contains(secret), "a secret is in {path:?}");
        }
    }
}
