//! `/proc/cpuinfo`: one block for each logical processor; the keys differ by architecture.

use super::{field, one_line};

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CpuInfo {
    /// The processor's name. On ARM there is often none; then the implementer's and the part's number.
    pub(crate) model: Option<String>,
    /// Blocks, that is logical processors online.
    pub(crate) processors: u32,
    /// The x86 flag that a hypervisor sets for its guests.
    pub(crate) hypervisor: bool,
}

/// Parses the file. Text without any `processor` line has zero processors.
pub(crate) fn parse(text: &str) -> CpuInfo {
    let processors = text.lines().filter(|line| is_processor_line(line)).count();
    let hypervisor =
        field(text, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    CpuInfo {
        model: model(text),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        hypervisor,
    }
}

/// `processor : 0`. Some ARM kernels also print `Processor : ARMv7 …`, which is a name.
fn is_processor_line(line: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(key, value)| key.trim() == "processor" && value.trim().parse::<u32>().is_ok())
}

fn model(text: &str) -> Option<String> {
    let named = ["model name", "cpu model", "Model", "Processor"]
        .iter()
        .find_map(|key| field(text, key));
    if let Some(name) = named.and_then(one_line) {
        return Some(name);
    }
    let (implementer, part) = (field(text, "CPU implementer")?, field(text, "CPU part")?);
    one_line(&format!("ARM implementer {implementer} part {part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_has_a_model_name_and_flags() {
        let text = "processor\t: 0\nmodel name\t: AMD  Ryzen 9\nflags\t\t: fpu hypervisor vme\n\n\
                    processor\t: 1\nmodel name\t: AMD  Ryzen 9\n";
        assert_eq!(
            parse(text),
            CpuInfo {
                model: Some("AMD Ryzen 9".into()),
                processors: 2,
                hypervisor: true
            }
        );
    }

    #[test]
    fn a_flag_that_only_contains_the_word_does_not_count() {
        assert!(!parse("processor: 0\nflags : nohypervisor hypervisor_x\n").hypervisor);
    }

    #[test]
    fn arm_servers_have_numbers_for_a_name() {
        let text = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(
            parse(text).model.as_deref(),
            Some("ARM implementer 0x41 part 0xd0c")
        );
        assert_eq!(parse(text).processors, 1);
    }

    #[test]
    fn garbage_has_no_model_and_no_processors() {
        for text in ["", "::::", "processor", "processor: many", "\u{fffd}\u{fffd}\0"] {
            assert_eq!(
                parse(text),
                CpuInfo {
                    model: None,
                    processors: 0,
                    hypervisor: false
                },
                "{text:?}"
            );
        }
    }
}
