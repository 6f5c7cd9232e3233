//! The probe on machines that were made up in a folder, and on the machine that the test runs on.
#![cfg(target_os = "linux")]

// The condition always holds here; it marks the module as test code for the lints.
#[cfg(test)]
mod fixture;

use orfe_hardware::{
    Arch, Chassis, Docker, DockerAbsence, Facts, Gpu, GpuKind, Root, Subject, Vendor, probe,
};

use fixture::{Machine, Pci};

#[tokio::test]
async fn laptop_with_nvidia_and_intel() {
    let machine = Machine::new()
        .chassis("LENOVO", "21HMCTO1WW", "10")
        .pci("0000:00:02.0", &Pci::display(0x8086, 0x46a6).driver("i915"))
        .pci("0000:01:00.0", &Pci::display(0x10de, 0x2684).driver("nvidia"))
        .pci(
            "0000:01:00.1",
            &Pci::of_class(0x04_0300, 0x10de, 0x22ba).driver("snd_hda_intel"),
        )
        .file(
            "/proc/driver/nvidia/gpus/0000:01:00.0/information",
            "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 181\n",
        );
    let facts = probe(&machine.root()).await;

    assert_eq!(facts.problems, []);
    assert_eq!(
        tags(&facts),
        ["nvidia-rtx4090", "intel-irisxe"],
        "the discrete one comes first"
    );
    let gpu = &facts.gpus[0];
    assert_eq!(
        (gpu.vendor, gpu.kind, gpu.pci_id.as_str()),
        (Vendor::Nvidia, GpuKind::Discrete, "10de:2684")
    );
    assert_eq!(gpu.model.value, "NVIDIA GeForce RTX 4090");
    assert_eq!(
        gpu.model.evidence,
        "/proc/driver/nvidia/gpus/0000:01:00.0/information"
    );
    let driver = gpu.driver.as_ref().unwrap();
    assert_eq!(
        (driver.value.as_str(), gpu.pci_address.as_str()),
        ("nvidia", "0000:01:00.0")
    );
    assert_eq!(driver.evidence, "/sys/bus/pci/devices/0000:01:00.0/driver");
    assert_eq!(facts.chassis.value, Chassis::Laptop);
    assert!(!facts.gpu_none());
}

#[tokio::test]
async fn everything_else_of_a_machine_with_its_evidence() {
    let facts = probe(&Machine::new().root()).await;

    assert_eq!(facts.problems, []);
    assert_eq!(
        (facts.arch.value.clone(), facts.arch.evidence.as_str()),
        (Arch::Amd64, "/proc/sys/kernel/arch")
    );
    let version = facts.os.version.unwrap();
    assert_eq!(
        (version.value.as_str(), version.evidence.as_str()),
        ("Testix 3", "/etc/os-release")
    );
    assert_eq!(facts.os.kernel.unwrap().value, "6.8.0-45-generic");
    let model = facts.cpu.model.unwrap();
    assert_eq!(
        (model.value.as_str(), model.evidence.as_str()),
        ("Testing Processor 9", "/proc/cpuinfo")
    );
    assert_eq!(facts.cpu.cores.unwrap().value, 2);
    assert_eq!(facts.memory_mib.unwrap().value, 31850);
    assert_eq!(facts.hostname.unwrap().value, "testbed");
    assert!(matches!(
        facts.docker,
        Docker::Absent {
            reason: DockerAbsence::NotInstalled,
            ..
        }
    ));
    let json = serde_json::to_value(probe(&Machine::new().root()).await).unwrap();
    assert_eq!(json["os"]["family"], "linux");
    assert_eq!(json["arch"]["value"], "amd64");
    assert_eq!(json["docker"]["state"], "absent");
    assert_eq!(json["docker"]["reason"], "not_installed");
}

#[tokio::test]
async fn amd_integrated_and_discrete() {
    let machine = Machine::new()
        .pci("0000:03:00.0", &Pci::display(0x1002, 0x744c).driver("amdgpu"))
        .pci("0000:02:00.0", &Pci::display(0x1002, 0x15bf).driver("amdgpu"));
    let facts = probe(&machine.root()).await;

    assert_eq!(tags(&facts), ["amd-rx7900", "amd-phoenix"]);
    let kinds: Vec<GpuKind> = facts.gpus.iter().map(|gpu| gpu.kind).collect();
    assert_eq!(kinds, [GpuKind::Discrete, GpuKind::Integrated]);
}

#[tokio::test]
async fn intel_only() {
    let machine = Machine::new().pci("0000:00:02.0", &Pci::display(0x8086, 0x5917).driver("i915"));
    let facts = probe(&machine.root()).await;

    assert_eq!(tags(&facts), ["intel-uhd620"]);
    assert_eq!(facts.gpus[0].kind, GpuKind::Integrated);
}

#[tokio::test]
async fn server_with_data_centre_cards() {
    let machine = Machine::new()
        .chassis("Supermicro", "SYS-821GE-TNHR", "23")
        .pci("0000:02:00.0", &Pci::display(0x1a03, 0x2000).driver("ast"))
        .pci("0000:9b:00.0", &Pci::of_class(0x03_0200, 0x10de, 0x2335))
        .pci(
            "0000:19:00.0",
            &Pci::of_class(0x03_0200, 0x10de, 0x2330).driver("nvidia"),
        )
        .pci(
            "0000:1a:00.0",
            &Pci::of_class(0x03_0200, 0x10de, 0x2330).driver("vfio-pci"),
        )
        .file(
            "/proc/driver/nvidia/gpus/0000:19:00.0/information",
            "Model: \t\t NVIDIA H100 80GB HBM3\n",
        );
    let facts = probe(&machine.root()).await;

    assert_eq!(facts.chassis.value, Chassis::Server);
    assert_eq!(
        tags(&facts),
        ["nvidia-h100", "nvidia-h100", "nvidia-h200"],
        "the board's own adapter is no GPU"
    );
    assert_eq!(
        facts.gpus[1].model.value, "H100 SXM5 80GB",
        "the driver says nothing about a card it lent out"
    );
    assert_eq!(facts.gpus[2].driver, None);
}

#[tokio::test]
async fn virtual_machines_have_no_gpu_and_say_so() {
    for (vendor, device) in [
        (0x1af4, 0x1050),
        (0x1b36, 0x0100),
        (0x1234, 0x1111),
        (0x15ad, 0x0405),
        (0x102b, 0x0536),
    ] {
        let machine = Machine::new()
            .chassis("QEMU", "Standard PC (Q35 + ICH9, 2009)", "1")
            .pci("0000:00:01.0", &Pci::display(vendor, device).driver("virtio-pci"));
        let facts = probe(&machine.root()).await;
        assert!(facts.gpu_none(), "{vendor:04x}:{device:04x} {:?}", facts.gpus);
        assert_eq!(facts.chassis.value, Chassis::Vm);
    }
    assert!(
        probe(&Machine::new().root()).await.gpu_none(),
        "no display adapter at all"
    );
}

#[tokio::test]
async fn a_hypervisor_flag_is_a_virtual_machine_except_for_xens_first_domain() {
    let guest = || {
        Machine::new().file(
            "/proc/cpuinfo",
            "processor: 0\nmodel name: x\nflags: fpu hypervisor\n",
        )
    };
    assert_eq!(probe(&guest().root()).await.chassis.value, Chassis::Vm);

    let first_domain = guest().file("/proc/xen/capabilities", "control_d\n");
    assert_eq!(probe(&first_domain.root()).await.chassis.value, Chassis::Desktop);
}

#[tokio::test]
async fn a_battery_tells_a_laptop_where_the_firmware_does_not() {
    let machine = || Machine::new().chassis("Apple", "MacBook", "2");
    let mouse = "/sys/class/power_supply/hid-mouse";
    let with_mouse = machine()
        .file(&format!("{mouse}/type"), "Battery\n")
        .file(&format!("{mouse}/scope"), "Device\n");
    let facts = probe(&with_mouse.root()).await;
    assert_eq!(facts.chassis.value, Chassis::Unknown);
    assert!(has_problem(&facts, Subject::Chassis));

    let facts = probe(
        &machine()
            .file("/sys/class/power_supply/BAT0/type", "Battery\n")
            .root(),
    )
    .await;
    assert_eq!(facts.chassis.value, Chassis::Laptop);
    assert_eq!(facts.chassis.evidence, "/sys/class/power_supply/BAT0");
}

#[tokio::test]
async fn unknown_cards_are_named_by_the_database_or_by_their_id() {
    let card = || Machine::new().pci("0000:01:00.0", &Pci::display(0x10de, 0xfffe));
    let facts = probe(&card().root()).await;
    assert_eq!(tags(&facts), ["nvidia-fffe"]);
    assert_eq!(facts.gpus[0].model.value, "10de:fffe");

    let database = "10de  NVIDIA Corporation\n\tfffe  GX100 [GeForce RTX 9999]\n";
    let facts = probe(&card().file("/usr/share/misc/pci.ids", database).root()).await;
    assert_eq!(tags(&facts), ["nvidia-rtx9999"]);
    assert_eq!(facts.gpus[0].model.evidence, "/usr/share/misc/pci.ids");
}

#[tokio::test]
async fn a_slice_of_a_gpu_is_not_a_gpu() {
    let machine = Machine::new()
        .pci("0000:00:02.0", &Pci::display(0x8086, 0xa780).driver("i915"))
        .pci(
            "0000:00:02.1",
            &Pci::display(0x8086, 0xa780)
                .driver("vfio-pci")
                .slice_of("0000:00:02.0"),
        );
    assert_eq!(tags(&probe(&machine.root()).await), ["intel-uhd770"]);
}

#[tokio::test]
async fn an_empty_root_has_only_problems_and_claims_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let facts = probe(&Root::at(folder.path())).await;

    for subject in [
        Subject::Os,
        Subject::Kernel,
        Subject::Cpu,
        Subject::Memory,
        Subject::Hostname,
        Subject::Gpu,
        Subject::Chassis,
    ] {
        assert!(
            has_problem(&facts, subject),
            "{subject} is missing without a word"
        );
    }
    assert!(
        facts.gpus.is_empty() && !facts.gpu_none(),
        "nothing was looked at"
    );
    assert_eq!(facts.chassis.value, Chassis::Unknown);
    assert_eq!(
        (facts.memory_mib, facts.hostname, facts.cpu.cores),
        (None, None, None)
    );
    let problem = facts
        .problems
        .iter()
        .find(|problem| problem.what == Subject::Gpu)
        .unwrap();
    assert_eq!(problem.place, "/sys/bus/pci/devices");
    assert!(
        problem
            .to_string()
            .starts_with("could not read the GPUs from /sys/bus/pci/devices: "),
        "{problem}"
    );
}

#[tokio::test]
async fn garbage_in_every_file_is_a_problem_and_never_a_panic() {
    for garbage in [
        &b"\xff\xfe\0\0\x01"[..],
        b"",
        b"0x",
        b":::\n=\n",
        "9".repeat(70_000).as_bytes(),
    ] {
        let machine = Machine::new()
            .pci("0000:01:00.0", &Pci::display(0x10de, 0x2684))
            .bytes("/sys/bus/pci/devices/0000:01:00.0/class", garbage)
            .bytes("/proc/cpuinfo", garbage)
            .bytes("/proc/meminfo", garbage)
            .bytes("/etc/os-release", garbage)
            .bytes("/sys/class/dmi/id/chassis_type", garbage)
            .bytes("/proc/sys/kernel/hostname", garbage);
        let facts = probe(&machine.root()).await;

        assert!(
            !facts.gpu_none(),
            "a device that could not be read might be a GPU"
        );
        for subject in [
            Subject::Os,
            Subject::Cpu,
            Subject::Memory,
            Subject::Gpu,
            Subject::Chassis,
        ] {
            assert!(
                has_problem(&facts, subject),
                "{subject} {:?}",
                &garbage[..garbage.len().min(8)]
            );
        }
        assert!(
            facts
                .hostname
                .is_none_or(|name| name.value.chars().count() <= 128)
        );
    }
}

#[tokio::test]
async fn a_missing_or_odd_file_of_a_device_fails_the_look() {
    for file in ["class", "vendor", "device"] {
        let machine = Machine::new()
            .pci("0000:01:00.0", &Pci::display(0x10de, 0x2684))
            .without(&format!("/sys/bus/pci/devices/0000:01:00.0/{file}"));
        let facts = probe(&machine.root()).await;
        assert!(facts.gpus.is_empty() && !facts.gpu_none(), "without {file}");
    }
    let looped = Machine::new().link("/sys/bus/pci/devices/0000:05:00.0", "0000:05:00.0");
    assert!(!probe(&looped.root()).await.gpu_none());
}

#[tokio::test]
async fn the_gpu_of_windows_beneath_is_not_claimed_to_be_absent() {
    let facts = probe(&Machine::new().file("/dev/dxg", "").root()).await;
    assert!(facts.gpus.is_empty() && !facts.gpu_none());
}

#[tokio::test]
async fn this_machine_answers() {
    let facts = probe(&Root::system()).await;
    println!("{}", serde_json::to_string_pretty(&facts).unwrap());
    assert!(facts.memory_mib.is_some_and(|memory| memory.value > 0));
    assert!(facts.cpu.cores.is_some_and(|cores| cores.value > 0));
    assert!(facts.hostname.is_some());
}

fn tags(facts: &Facts) -> Vec<&str> {
    facts
        .gpus
        .iter()
        .map(|gpu: &Gpu| gpu.tag_value.as_str())
        .collect()
}

fn has_problem(facts: &Facts, subject: Subject) -> bool {
    facts.problems.iter().any(|problem| problem.what == subject)
}
