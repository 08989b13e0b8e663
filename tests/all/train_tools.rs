//! Logs, TensorBoard's files, charts.

use fornax::train::{CsvLogger, EventWriter, Goal, History, JsonLogger, Logs, Mean};
use fornax::{Error, Result};
use std::path::Path;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn csv_grows_columns_and_quotes_names() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/log.csv");
    let mut log = CsvLogger::new(&path);
    log.log(1, 5, &Logs::from_iter([("loss", 0.1 + 0.2), ("lr", 1e-7)]))?;
    log.log(1, 6, &Logs::from_iter([("lr", f64::NAN)]))?;
    log.log(2, 10, &Logs::from_iter([("a, \"b\"", f64::INFINITY), ("loss", -0.0)]))?;
    let want = "epoch,step,loss,lr,\"a, \"\"b\"\"\"\n1,5,0.30000000000000004,0.0000001,\n1,6,,NaN,\n2,10,-0,,inf\n";
    assert_eq!(read(&path), want);
    let table: Vec<csv_line::Line> = csv_line::parse(&read(&path));
    assert!(table.iter().all(|line| line.len() == 5) && table[0][4] == "a, \"b\"");
    let e = CsvLogger::new("/proc/nowhere/log.csv").log(1, 1, &Logs::from_iter([("x", 1.0)])).unwrap_err();
    assert!(matches!(e, Error::Io { .. }));
    Ok(())
}

/// A reader of its own, by RFC 4180.
mod csv_line {
    pub type Line = Vec<String>;
    pub fn parse(text: &str) -> Vec<Line> {
        let (mut lines, mut line, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => line.push(std::mem::take(&mut field)),
                '\n' if !quoted => {
                    line.push(std::mem::take(&mut field));
                    lines.push(std::mem::take(&mut line));
                }
                c => field.push(c),
            }
        }
        lines
    }
}

#[test]
fn json_lines_keep_their_order_and_what_json_has_not() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut log = JsonLogger::new(&path);
    log.log(1, 2, &Logs::from_iter([("z", 0.1), ("a \"quoted\"\n", f64::NAN), ("m", f64::NEG_INFINITY)]))?;
    assert_eq!(read(&path), "{\"epoch\":1,\"step\":2,\"z\":0.1,\"a \\\"quoted\\\"\\n\":\"NaN\",\"m\":\"-inf\"}\n");
    log.log(2, 4, &Logs::new())?;
    assert_eq!(read(&path).lines().count(), 2);
    Ok(())
}

#[test]
fn small_things() {
    let mut mean = Mean::new();
    assert_eq!(mean.value(), None);
    mean.update(f64::NAN, 0.0);
    mean.update(1.0, 1.0);
    assert!(mean.value().unwrap().is_nan());
    assert!(Goal::Min.better(1.0, f64::NAN, 0.0) && !Goal::Min.better(f64::NAN, f64::NAN, 0.0) && !Goal::Max.better(1.0, 1.0, 0.0));
    let mut history = History::new();
    history.push(1, Logs::from_iter([("a", 1.0)]));
    history.push(2, Logs::from_iter([("b", 2.0), ("a", 3.0)]));
    assert_eq!((history.names(), history.series("b")), (vec!["a".to_string(), "b".to_string()], vec![(2.0, 2.0)]));
    assert!(history.series("c").is_empty());
    assert_eq!(Logs::from_iter([("x", 1e-5), ("y", 123456.0), ("z", 0.0)]).to_string(), "x 1.00e-5  y 1.23e5  z 0.0000");
}

/// CRC-32C bit by bit, apart from the table of the library.
fn crc32c(data: &[u8]) -> u32 {
    let mut c = !0u32;
    for &byte in data {
        for bit in 0..8 {
            let carry = (c ^ u32::from(byte >> bit)) & 1;
            c = (c >> 1) ^ (carry * 0x82f6_3b78);
        }
    }
    !c
}

fn masked(data: &[u8]) -> u32 {
    let c = crc32c(data);
    c.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field of a protocol buffer: its number, and a number or bytes.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Number(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn fields(mut data: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn varint(data: &mut &[u8]) -> u64 {
        let (mut v, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            v |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return v;
            }
        }
    }
    fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, tail) = data.split_at(n);
        *data = tail;
        head
    }
    let mut found = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut data)),
            1 => Value::Double(f64::from_le_bytes(take(&mut data, 8).try_into().unwrap())),
            2 => {
                let n = varint(&mut data) as usize;
                Value::Bytes(take(&mut data, n))
            }
            5 => Value::Float(f32::from_le_bytes(take(&mut data, 4).try_into().unwrap())),
            wire => panic!("wire type {wire}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn bytes<'a>(fields: &[(u64, Value<'a>)], number: u64) -> &'a [u8] {
    fields.iter().find_map(|(n, v)| if let (true, Value::Bytes(b)) = (*n == number, v) { Some(*b) } else { None }).unwrap()
}

/// The records of a file, each with both checksums checked.
fn records(mut data: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(data[8..12].try_into().unwrap()), masked(&data[..8]));
        let body = &data[12..12 + length];
        assert_eq!(u32::from_le_bytes(data[12 + length..16 + length].try_into().unwrap()), masked(body));
        found.push(body);
        data = &data[16 + length..];
    }
    found
}

#[test]
fn event_files_are_framed_and_checked() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut events = EventWriter::create(folder.path().join("run"))?;
    events.scalar("loss", 300, 0.25)?;
    events.scalar("größe", u64::from(u32::MAX) + 7, f64::NAN)?;
    events.histogram("w", 1, &[-1.0, 0.0, 0.0, 2.0, f32::NAN, f32::INFINITY])?;
    events.histogram("same", 2, &[3.0; 4])?;
    events.histogram("empty", 3, &[])?;
    events.text("notes", 4, "a *text*")?;
    events.png("picture", 5, (2, 1), b"not a png")?;
    events.restart(9)?;
    events.flush()?;
    let file = std::fs::read(events.path()).unwrap();
    let records = records(&file);
    assert_eq!(records.len(), 9);
    let event = |i: usize| fields(records[i]);
    assert_eq!(bytes(&event(0), 3), b"brain.Event:2");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for record in &records {
        assert!(matches!(fields(record)[0], (1, Value::Double(t)) if (now - 60.0..=now).contains(&t)));
    }
    let value = |i: usize| fields(bytes(&fields(bytes(&event(i), 5)), 1));
    assert_eq!(event(1)[1], (2, Value::Number(300)));
    assert_eq!((bytes(&value(1), 1), &value(1)[1]), (&b"loss"[..], &(2, Value::Float(0.25))));
    assert_eq!(event(2)[1], (2, Value::Number(u64::from(u32::MAX) + 7)));
    assert!(bytes(&value(2), 1) == "größe".as_bytes() && matches!(value(2)[1], (2, Value::Float(v)) if v.is_nan()));
    // Histograms: the finite numbers, in buckets whose counts add up, up to the largest.
    let doubles = |b: &[u8]| b.chunks(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>();
    let h = fields(bytes(&value(3), 5));
    let numbers: Vec<&Value> = h[..5].iter().map(|f| &f.1).collect();
    assert_eq!(numbers, [-1.0, 2.0, 4.0, 1.0, 5.0].map(Value::Double).iter().collect::<Vec<_>>());
    let (limits, counts) = (doubles(bytes(&h, 6)), doubles(bytes(&h, 7)));
    assert_eq!((limits.len(), limits[29], counts[0], counts[29], counts.iter().sum::<f64>()), (30, 2.0, 1.0, 1.0, 4.0));
    assert!(limits.is_sorted() && counts[10] == 2.0, "{counts:?}");
    assert_eq!(doubles(bytes(&fields(bytes(&value(4), 5)), 7)), [4.0]);
    assert!(doubles(bytes(&fields(bytes(&value(5), 5)), 7)).is_empty());
    assert_eq!(bytes(&fields(bytes(&fields(bytes(&value(6), 9)), 1)), 1), b"text");
    assert_eq!(bytes(&fields(bytes(&value(6), 8)), 8), b"a *text*");
    assert_eq!(bytes(&fields(bytes(&value(7), 4)), 4), b"not a png");
    assert_eq!((&event(8)[1], bytes(&event(8), 7)), (&(2, Value::Number(9)), &[8u8, 1][..]));
    // A second writer makes a file of its own.
    assert_ne!(EventWriter::create(folder.path().join("run"))?.path(), events.path());
    Ok(())
}

#[cfg(feature = "plot")]
mod plots {
    use super::*;
    use fornax::plot::{Canvas, Chart};
    use fornax::train::Curves;

    /// The size and the pixels of a PNG file, by the `png` crate's decoder.
    fn decode(bytes: &[u8]) -> ((u32, u32), Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        ((info.width, info.height), pixels)
    }

    /// Whether every element that is opened is closed.
    fn well_formed(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, _) = part.split_once('>').unwrap();
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name.to_string())),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap().to_string()),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_curve_lies_where_its_points_are() -> Result<()> {
        let chart = Chart::new("x").series("", [(0.0, 0.0), (10.0, 10.0)]).size(500, 400);
        let mut canvas = Canvas::new(500, 400)?;
        chart.draw(&mut canvas, 0, 0);
        let ((width, height), pixels) = decode(&canvas.png()?);
        assert_eq!((width, height), (500, 400));
        assert_eq!(pixels.len(), 500 * 400 * 3);
        // The frame is 412 wide from 66 and 322 high from 44: the middle of the line, and a corner without it.
        assert_eq!(canvas.pixel(66 + 206, 44 + 160), Some([0, 114, 178]));
        assert_eq!(canvas.pixel(66 + 100, 44 + 20), Some([255; 3]));
        let svg = chart.svg();
        assert!(svg.contains("points=\"66.0,366.0 478.0,44.0\""), "{svg}");
        well_formed(&svg);
        Ok(())
    }

    #[test]
    fn odd_numbers_are_drawn_or_left_out() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let odd = [(1.0, f64::NAN), (2.0, 1.0), (3.0, f64::INFINITY), (4.0, -2.0), (5.0, 1e300), (6.0, 5e-324)];
        for (i, chart) in [
            Chart::new(""),
            Chart::new("<&\">").series("<&\">", odd),
            Chart::new("log").series("a", odd).log_y().log_x(),
            Chart::new("one").series("a", [(1.0, 1.0)]),
            Chart::new("none").series("a", [(f64::NAN, 1.0)]).log_y(),
            Chart::new("small").series("a", odd).size(1, 1),
        ]
        .into_iter()
        .enumerate()
        {
            well_formed(&chart.svg());
            chart.save(folder.path().join(format!("new/{i}.svg")))?;
            chart.save(folder.path().join(format!("new/{i}.PNG")))?;
            let bytes = std::fs::read(folder.path().join(format!("new/{i}.PNG"))).unwrap();
            assert!(decode(&bytes).0.0 >= 160);
        }
        assert!(matches!(Chart::new("x").save("x.gif"), Err(Error::Argument { .. })));
        assert!(matches!(fornax::plot::save(&[], "x.svg"), Err(Error::Argument { .. })));
        assert!(Canvas::new(0, 5).is_err() && Canvas::new(u32::MAX, u32::MAX).is_err());
        let mut canvas = Canvas::new(5, 5)?;
        canvas.fill(-3, -3, i32::MAX, 5, [1, 2, 3]);
        canvas.line((f32::NAN, 0.0), (1.0, 1.0), 1.0, [0; 3]);
        canvas.text(-100, 3, 1, "ÄÖ \u{1f600} abc", [0; 3]);
        assert_eq!(canvas.pixel(4, 0), Some([1, 2, 3]));
        assert_eq!(canvas.pixel(5, 0), None);
        // Far outside: whatever it draws, it ends.
        canvas.line((-1e9, -1e9), (1e9, 1e9), 1.0, [9; 3]);
        Ok(())
    }

    #[test]
    fn curves_pair_training_and_validation() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::new();
        for epoch in 1..=3u64 {
            let e = epoch as f64;
            history.push(epoch, Logs::from_iter([("loss", 1.0 / e), ("val_loss", 2.0 / e), ("val_only", e)]));
        }
        let path = folder.path().join("curves.svg");
        Curves::new(&path).draw(&history)?;
        let svg = read(&path);
        assert_eq!((svg.matches("<polyline").count(), svg.matches(" by epoch</text>").count()), (3, 2), "{svg}");
        Ok(())
    }
}
