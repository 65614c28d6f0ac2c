//! Stub: replaced at merge.
use crate::Result;
/// Stub.
pub(crate) struct PartitionExpression;
impl PartitionExpression {
    pub(crate) fn parse(_: &str, _: &arrow::datatypes::Schema) -> Result<Option<Self>> {
        Ok(None)
    }
}
