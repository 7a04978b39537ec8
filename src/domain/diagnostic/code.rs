//! The kinds of mistakes, each with a number that stays.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $number:literal,)+) => {
        /// A kind of mistake. Its number never changes its meaning; people search for it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])+ $name,)+
        }

        impl Code {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As shown: `DAG004`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("DAG", $number),)+
                }
            }
        }
    };
}

codes! {
    /// A key that no DAG has.
    UnknownDagKey = "001",
    /// A key that neither tasks nor the task's operator have.
    UnknownTaskKey = "002",
    /// Tasks that wait for each other in a circle.
    Cycle = "003",
    /// A dependency on a task that does not exist.
    DanglingDependency = "004",
    /// A task that waits for itself.
    SelfDependency = "005",
    /// Two tasks, or task groups, of one id.
    DuplicateTask = "006",
    /// Two DAGs of one id.
    DuplicateDag = "007",
    /// A mapping with one key twice.
    DuplicateKey = "008",
    /// A task without an operator.
    MissingOperator = "009",
    /// An operator that does not exist here.
    UnknownOperator = "010",
    /// A value of the wrong type.
    WrongType = "011",
    /// A list item without its `task_id` or `group_name`.
    MissingTaskId = "012",
    /// A file with nothing in it.
    EmptyFile = "013",
    /// A DAG without tasks.
    NoTasks = "014",
    /// An id with a character that ids do not have, too long or empty.
    BadId = "015",
    /// A dependency named twice.
    RepeatedDependency = "016",
    /// A branch that follows what is not right after it.
    NotDownstream = "017",
    /// A task group that does not exist.
    UnknownGroup = "018",
    /// A task group without tasks.
    EmptyGroup = "019",
    /// A cron expression or preset that cannot be read.
    BadSchedule = "020",
    /// A timezone that does not exist.
    BadTimezone = "021",
    /// A date that cannot be read.
    BadDate = "022",
    /// An end before the start.
    EndBeforeStart = "023",
    /// A duration that cannot be read.
    BadDuration = "024",
    /// A number that is too small or too large.
    OutOfRange = "025",
    /// A word that is not one of those allowed.
    BadChoice = "026",
    /// A value that JSON cannot hold.
    NotJson = "027",
    /// Setups and teardowns that do not go together.
    BadRole = "028",
    /// A param whose schema is none, or whose default does not keep to it.
    BadParam = "029",
    /// An operator's key that it does not have.
    UnknownConfigKey = "030",
    /// An operator's key that it needs.
    MissingConfigKey = "031",
    /// An operator's key with a value of the wrong type.
    WrongConfigType = "032",
    /// A configuration that the operator refuses.
    BadConfig = "033",
    /// A file that a task names and that is not there.
    MissingFile = "034",
    /// A mapped task whose keys cannot be mapped, or over nothing.
    BadMapping = "035",
    /// A template that is not Jinja.
    TemplateSyntax = "040",
    /// A name that templates do not have.
    UnknownTemplateName = "041",
    /// A param that the DAG does not declare.
    UnknownParam = "042",
    /// The output of a task that does not exist.
    OutputOfUnknownTask = "043",
    /// The output of a task that is not upstream, so that it may not exist yet.
    OutputNotUpstream = "044",
    /// A template that cannot be rendered.
    TemplateFails = "045",
    /// A key that Airflow has and pinsched has not.
    UnsupportedKey = "050",
    /// A key that Airflow has and that makes no difference here.
    IgnoredKey = "051",
    /// Something that pinsched will have.
    NotYet = "052",
    /// Text that is not YAML.
    Syntax = "060",
    /// A tab where YAML wants blanks.
    Tab = "061",
    /// A quote that is not closed.
    UnclosedQuote = "062",
    /// Bytes that are not UTF-8.
    NotUtf8 = "063",
    /// A file, or what it comes to, that is too large.
    TooLarge = "064",
    /// Values nested too deeply.
    TooDeep = "065",
    /// Anchors and aliases that multiply into too much.
    AliasBomb = "066",
    /// More than one YAML document in a file.
    SeveralDocuments = "067",
    /// A merge key whose value is no mapping.
    BadMerge = "068",
    /// An alias without its anchor.
    UnknownAlias = "069",
    /// A YAML tag that means nothing here.
    UnsupportedTag = "070",
    /// A mapping key that is not plain text.
    BadKey = "071",
    /// A file that cannot be read, or a folder that holds none.
    Unreadable = "072",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
