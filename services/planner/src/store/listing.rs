//! Pages of listings.

use futures_util::{Stream, TryStreamExt};
use phoenix_domain::limits::MAX_VIEW_BYTES;
use sqlx::{ColumnIndex, Decode, Row, Type};

use crate::store::{
    error::JournalError,
    query::{Page, Unreadable},
};

/// Approximate size of an item without its texts, in bytes.
const REST: usize = 512;

/// A row of a listing.
pub(super) struct Listed<T, C> {
    /// Identifier of the item, as stored.
    pub(super) id: String,
    /// Size of the item's texts, in bytes.
    pub(super) text_bytes: usize,
    /// Cursor of the item, if it can be read.
    pub(super) cursor: Option<C>,
    pub(super) item: Result<T, JournalError>,
}

impl<T, C> Listed<T, C> {
    /// A row of a plan or of something that belongs to one.
    pub(super) fn of<'r, R>(row: &'r R, cursor: Option<C>, item: Result<T, JournalError>) -> Self
    where
        R: Row,
        &'r str: Decode<'r, R::Database> + Type<R::Database>,
        &'static str: ColumnIndex<R>,
    {
        let text = |column| row.try_get::<Option<&str>, _>(column).ok().flatten();
        let text_bytes = ["error", "reason"].into_iter().filter_map(text).map(str::len).sum();
        Self { id: text("plan_id").unwrap_or_default().to_owned(), text_bytes, cursor, item }
    }
}

/// A page of a listing whose query returns up to one row more than `limit`: that row means that another page follows. A page
/// ends early when its rows exceed [`MAX_VIEW_BYTES`], and has at least one row. Unreadable rows are reported separately.
pub(super) async fn page<T, C: Copy>(
    rows: impl Stream<Item = Result<Listed<T, C>, sqlx::Error>> + Unpin,
    limit: u32,
) -> Result<Page<T, C>, JournalError> {
    page_of(rows, limit, u32::MAX, |_| true).await
}

/// As [`page`], of the items that match, among at most `examined` rows.
pub(super) async fn page_of<T, C: Copy>(
    mut rows: impl Stream<Item = Result<Listed<T, C>, sqlx::Error>> + Unpin,
    limit: u32,
    examined: u32,
    matches: impl Fn(&T) -> bool,
) -> Result<Page<T, C>, JournalError> {
    let mut page = Page { items: Vec::new(), unreadable: Vec::new(), last: None };
    let (mut count, mut bytes, mut last, mut left) = (0, 0, None, examined);
    while let Some(Listed { id, text_bytes, cursor, item }) = rows.try_next().await? {
        if left == 0 {
            page.last = last;
            break;
        }
        left -= 1;
        if item.as_ref().is_ok_and(|item| !matches(item)) {
            last = cursor.or(last);
            continue;
        }
        bytes += REST + text_bytes;
        if count == limit || (count > 0 && bytes > MAX_VIEW_BYTES) {
            page.last = last;
            break;
        }
        count += 1;
        last = cursor.or(last);
        match item {
            Ok(item) => page.items.push(item),
            Err(error) => page.unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    Ok(page)
}
