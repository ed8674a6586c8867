//! Reads pickles of tensors, and executes nothing.
//!
//! A pickle is a program for a stack machine that may import and call anything. This machine knows the
//! dozen names that `torch.save` needs for tensors, builds plain data of them, and refuses all others by
//! name. Opcodes: Python's `pickletools`, protocols 2 to 5. Time and memory are linear in the input, which
//! is bounded; compound values live in arenas, so that nesting costs no stack.

use std::collections::BTreeMap;
use std::io::Read;
use std::rc::Rc;

/// A pickle of tensors is kilobytes, with an optimizer's state a few megabytes.
const MOST_BYTES: u64 = 64 << 20;
/// Items on the stack and in all containers together.
const MOST_ITEMS: usize = 1 << 20;

/// One pickled object and what it refers to.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    pub root: Value,
    pub sequences: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<StorageRef>,
    pub tensors: Vec<TensorRef>,
}

/// A value; compound ones are indices into the [`Pickle`].
#[derive(Debug, Clone, Default)]
pub(super) enum Value {
    #[default]
    None,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    /// An integer of more than 64 bits, little endian.
    Long(Rc<[u8]>),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
    Global(Global),
    /// Plain data that no tensor depends on.
    Opaque,
}

/// The names that a checkpoint may import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    Dict,
    Size,
    /// `_rebuild_tensor`, `_v2`, `_v3`: they agree in the first four arguments.
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
    /// A `torch.dtype`, which gives an untyped storage its type.
    DType(Element),
    /// A class of plain data, such as training arguments: its objects are built empty and not looked at.
    Inert,
}

/// What a storage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    U8,
    /// A type that candle has not; the name and the size in bytes.
    Other(&'static str, usize),
}

/// A storage, which lies elsewhere in the file.
#[derive(Debug, Clone)]
pub(super) struct StorageRef {
    pub key: Rc<str>,
    pub element: Element,
    /// Elements of the storage.
    pub len: usize,
    /// Where in the storage of that key this one starts (a view, before torch 0.4), in elements.
    pub start: usize,
}

/// A strided view of a storage, in elements; checked to lie inside of it.
#[derive(Debug, Clone)]
pub(super) struct TensorRef {
    pub storage: usize,
    pub element: Element,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    /// The product of `shape`.
    pub len: usize,
}

/// Reads one pickle and leaves `input` behind it.
///
/// # Errors
/// What is wrong, as a sentence.
pub(super) fn read(input: &mut impl Read) -> Result<Pickle, String> {
    let machine = Machine {
        input: input.take(MOST_BYTES),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        items: 0,
        out: Pickle::default(),
    };
    machine.run()
}

struct Machine<R> {
    input: R,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    items: usize,
    out: Pickle,
}

impl<R: Read> Machine<R> {
    fn run(mut self) -> Result<Pickle, String> {
        loop {
            match self.byte()? {
                b'.' => {
                    self.out.root = self.pop()?;
                    return Ok(self.out);
                }
                0x80 => drop(self.byte()?),
                0x95 => drop(self.bytes::<8>()?),
                b'(' => {
                    self.count(1)?;
                    self.marks.push(self.stack.len());
                }
                b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?.clone();
                    self.push(top)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => {
                    let byte = self.byte()?;
                    self.push(Value::Int(byte.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.bytes()?);
                    self.push(Value::Int(value.into()))?;
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.bytes()?);
                    self.push(Value::Int(value.into()))?;
                }
                0x8a => {
                    let len = self.byte()?;
                    self.long(len.into())?;
                }
                0x8b => {
                    let len = self.len32()?;
                    self.long(len)?;
                }
                b'G' => {
                    self.bytes::<8>()?;
                    self.push(Value::Opaque)?;
                }
                b'X' | b'T' => {
                    let len = self.len32()?;
                    self.text(len)?;
                }
                0x8c | b'U' => {
                    let len = self.byte()?;
                    self.text(len.into())?;
                }
                0x8d => {
                    let len = u64::from_le_bytes(self.bytes()?);
                    self.text(len)?;
                }
                opcode @ (b'B' | b'C' | 0x8e | 0x96) => {
                    let len = match opcode {
                        b'B' => self.len32()?,
                        b'C' => self.byte()?.into(),
                        _ => u64::from_le_bytes(self.bytes()?),
                    };
                    self.blob(len)?;
                    self.push(Value::Opaque)?;
                }
                b')' => self.push_tuple(Vec::new())?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_tuple(items)?;
                }
                opcode @ 0x85..=0x87 => {
                    let items = self.pop_last(usize::from(opcode - 0x84))?;
                    self.push_tuple(items)?;
                }
                b']' => self.push_list(Vec::new())?,
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push_list(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push_dict(Vec::new())?,
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push_dict(paired(items)?)?;
                }
                b's' => {
                    let item = self.pop_last(2)?;
                    self.set_items(item)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                0x8f => self.push(Value::Opaque)?,
                0x90 => drop(self.pop_to_mark()?),
                0x91 => {
                    self.pop_to_mark()?;
                    self.push(Value::Opaque)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(global(&module, &name)?))?;
                }
                0x93 => match self.pop_last(2)?.as_slice() {
                    [Value::Text(module), Value::Text(name)] => {
                        let global = global(module, name)?;
                        self.push(Value::Global(global))?;
                    }
                    _ => return Err("the pickle imports something whose name is no text".into()),
                },
                b'R' | 0x81 => {
                    let call = self.pop_last(2)?;
                    self.call(&call[0], &call[1])?;
                }
                0x92 => {
                    let call = self.pop_last(3)?;
                    self.call(&call[0], &call[1])?;
                }
                // An object's attributes: of an OrderedDict its metadata, of a parameter nothing.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    self.persistent(&id)?;
                }
                b'q' => {
                    let slot = self.byte()?;
                    self.memoize(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.bytes()?);
                    self.memoize(slot)?;
                }
                0x94 => {
                    let slot = u32::try_from(self.memo.len()).map_err(|_| TOO_MUCH)?;
                    self.memoize(slot)?;
                }
                b'h' => {
                    let slot = self.byte()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.bytes()?);
                    self.recall(slot)?;
                }
                opcode => return Err(format!("the pickle has the opcode {opcode:#04x}, which tensors do not need")),
            }
        }
    }

    /// Calls a global that makes plain data.
    fn call(&mut self, callee: &Value, args: &Value) -> Result<(), String> {
        let Value::Tuple(args) = *args else { return Err("the pickle calls something without arguments".into()) };
        let args = self.out.sequences[args].clone();
        self.count(args.len())?;
        match (callee, args.as_slice()) {
            (Value::Global(Global::Dict), [dict @ Value::Dict(_)]) => self.push(dict.clone()),
            (Value::Global(Global::Dict), [Value::List(pairs)]) => {
                let mut items = Vec::new();
                for pair in &self.out.sequences[*pairs] {
                    match pair {
                        Value::Tuple(pair) | Value::List(pair) => match self.out.sequences[*pair].as_slice() {
                            [key, value] => items.push((key.clone(), value.clone())),
                            _ => return Err("the pickle makes a dict of something else than pairs".into()),
                        },
                        _ => return Err("the pickle makes a dict of something else than pairs".into()),
                    }
                }
                self.push_dict(items)
            }
            (Value::Global(Global::Dict), _) => self.push_dict(Vec::new()),
            (Value::Global(Global::Size), [sizes @ (Value::Tuple(_) | Value::List(_))]) => self.push(sizes.clone()),
            (Value::Global(Global::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => self.push(tensor.clone()),
            (Value::Global(Global::RebuildTensor), [Value::Storage(storage), offset, shape, strides, rest @ ..]) => {
                let (offset, shape, strides) = (offset.clone(), shape.clone(), strides.clone());
                let element = rest.iter().find_map(|value| match value {
                    Value::Global(Global::DType(element)) => Some(*element),
                    _ => None,
                });
                let tensor = self.tensor(*storage, element, &offset, &shape, &strides)?;
                self.out.tensors.push(tensor);
                self.push(Value::Tensor(self.out.tensors.len() - 1))
            }
            (Value::Global(Global::Inert), _) => self.push(Value::Opaque),
            _ => Err("the pickle calls something in a way that no tensor needs".into()),
        }
    }

    fn tensor(
        &self,
        storage: usize,
        element: Option<Element>,
        offset: &Value,
        shape: &Value,
        strides: &Value,
    ) -> Result<TensorRef, String> {
        const MOST_DIMS: usize = 16;
        let of = &self.out.storages[storage];
        let (Some(offset), Some(shape), Some(strides)) = (index(offset), self.indices(shape), self.indices(strides))
        else {
            return Err("a tensor's offset, shape and strides must be whole numbers from 0".into());
        };
        if shape.len() != strides.len() || shape.len() > MOST_DIMS {
            return Err(format!("a tensor has {} dimensions and {} strides", shape.len(), strides.len()));
        }
        let element = element.unwrap_or(of.element);
        // An untyped storage counts bytes.
        let elements = of.len.checked_mul(of.element.size()).map(|bytes| bytes / element.size());
        let len = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (&dim, &stride)| last.checked_add(dim.saturating_sub(1).checked_mul(stride)?));
        match (len, last, elements) {
            (Some(len), Some(last), Some(elements)) if len == 0 || last < elements => {
                Ok(TensorRef { storage, element, offset, shape, strides, len })
            }
            _ => Err(format!("a tensor of shape {shape:?} reaches out of its storage of {} elements", of.len)),
        }
    }

    /// `("storage", type, key, location, elements)`, in legacy files with a view's key, offset and size.
    fn persistent(&mut self, id: &Value) -> Result<(), String> {
        let Value::Tuple(id) = *id else { return Err("a storage's id must be a tuple".into()) };
        let [Value::Text(tag), Value::Global(kind), Value::Text(key), _, len, view @ ..] =
            self.out.sequences[id].as_slice()
        else {
            return Err("a storage's id must be (\"storage\", type, key, location, size)".into());
        };
        let (Global::Storage(element), "storage", Some(len)) = (*kind, tag.as_ref(), index(len)) else {
            return Err("a storage's id must be (\"storage\", type, key, location, size)".into());
        };
        let (start, len) = match view {
            [Value::Tuple(view)] => match self.out.sequences[*view].as_slice() {
                [_, start, size] => match (index(start), index(size)) {
                    (Some(start), Some(size)) if start.checked_add(size).is_some_and(|end| end <= len) => (start, size),
                    _ => return Err("a view of a storage reaches out of it".into()),
                },
                _ => return Err("a view of a storage must have a key, an offset and a size".into()),
            },
            _ => (0, len),
        };
        let storage = StorageRef { key: key.clone(), element, len, start };
        self.count(1)?;
        self.out.storages.push(storage);
        self.push(Value::Storage(self.out.storages.len() - 1))
    }

    fn indices(&self, value: &Value) -> Option<Vec<usize>> {
        match value {
            Value::Tuple(id) | Value::List(id) => self.out.sequences[*id].iter().map(index).collect(),
            _ => None,
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        self.count(items.len())?;
        match *self.top()? {
            Value::List(id) => self.out.sequences[id].extend(items),
            Value::Opaque => {}
            _ => return Err("the pickle appends to something that is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        self.count(items.len())?;
        match *self.top()? {
            Value::Dict(id) => self.out.dicts[id].extend(paired(items)?),
            Value::Opaque => {}
            _ => return Err("the pickle sets items of something that is no dict".into()),
        }
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), String> {
        self.count(items.len() + 1)?;
        self.out.sequences.push(items);
        self.push(Value::Tuple(self.out.sequences.len() - 1))
    }

    fn push_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        self.count(items.len() + 1)?;
        self.out.sequences.push(items);
        self.push(Value::List(self.out.sequences.len() - 1))
    }

    fn push_dict(&mut self, items: Vec<(Value, Value)>) -> Result<(), String> {
        self.count(items.len() + 1)?;
        self.out.dicts.push(items);
        self.push(Value::Dict(self.out.dicts.len() - 1))
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= MOST_ITEMS {
            return Err(TOO_MUCH.into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        Ok(self.pop_last(1)?.swap_remove(0))
    }

    fn pop_last(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(EMPTY.into()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or(EMPTY)?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| EMPTY.into())
    }

    fn memoize(&mut self, slot: u32) -> Result<(), String> {
        self.count(1)?;
        let top = self.top()?.clone();
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self.memo.get(&slot).cloned().ok_or("the pickle refers to something that it has not made")?;
        self.push(value)
    }

    fn count(&mut self, items: usize) -> Result<(), String> {
        self.items += items;
        if self.items > 4 * MOST_ITEMS { Err(TOO_MUCH.into()) } else { Ok(()) }
    }

    fn long(&mut self, len: u64) -> Result<(), String> {
        let bytes = self.blob(len)?;
        let value = if bytes.len() <= 8 {
            let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = [sign; 8];
            wide[..bytes.len()].copy_from_slice(&bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Long(bytes.into())
        };
        self.push(value)
    }

    fn text(&mut self, len: u64) -> Result<(), String> {
        let bytes = self.blob(len)?;
        self.push(Value::Text(String::from_utf8_lossy(&bytes).into()))
    }

    fn line(&mut self) -> Result<String, String> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte if line.len() < LONGEST => line.push(byte),
                _ => return Err("the pickle imports a name of more than 1024 bytes".into()),
            }
        }
    }

    /// `len` bytes; memory grows with what is there, not with what is promised.
    fn blob(&mut self, len: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(TRUNCATED.into()) }
    }

    fn len32(&mut self) -> Result<u64, String> {
        Ok(u32::from_le_bytes(self.bytes()?).into())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.bytes::<1>()?[0])
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|_| TRUNCATED)?;
        Ok(bytes)
    }
}

const TRUNCATED: &str = "the pickle ends in the middle, or is longer than 64 MiB";
const EMPTY: &str = "the pickle takes more from its stack than it put there";
const TOO_MUCH: &str = "the pickle has millions of items; one of weights has thousands";

impl Element {
    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 | Element::I16 => 2,
            Element::U8 => 1,
            Element::Other(_, size) => size,
        }
    }
}

fn index(value: &Value) -> Option<usize> {
    match value {
        Value::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

fn paired(items: Vec<Value>) -> Result<Vec<(Value, Value)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("the pickle makes a dict of a key without a value".into());
    }
    let mut items = items.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

/// The whole list of what may be imported.
fn global(module: &str, name: &str) -> Result<Global, String> {
    let global = match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Dict,
        ("torch", "Size") => Global::Size,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch" | "torch.cuda", name) if name.ends_with("Storage") => Global::Storage(match name {
            "DoubleStorage" => Element::F64,
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::BF16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "ByteStorage" | "BoolStorage" => Element::U8,
            "CharStorage" => Element::Other("int8", 1),
            "ComplexFloatStorage" => Element::Other("complex64", 8),
            "ComplexDoubleStorage" => Element::Other("complex128", 16),
            _ => return Err(refused(module, name)),
        }),
        ("torch.storage", "UntypedStorage") => Global::Storage(Element::U8),
        ("torch", "float64") => Global::DType(Element::F64),
        ("torch", "float32") => Global::DType(Element::F32),
        ("torch", "float16") => Global::DType(Element::F16),
        ("torch", "bfloat16") => Global::DType(Element::BF16),
        ("torch", "int64") => Global::DType(Element::I64),
        ("torch", "int32") => Global::DType(Element::I32),
        ("torch", "int16") => Global::DType(Element::I16),
        ("torch", "uint8" | "bool") => Global::DType(Element::U8),
        ("torch", "uint16") => Global::DType(Element::Other("uint16", 2)),
        ("torch", "uint32") => Global::DType(Element::Other("uint32", 4)),
        ("torch", "uint64") => Global::DType(Element::Other("uint64", 8)),
        // What training scripts keep beside the weights: arguments, paths, a best accuracy, a device.
        ("argparse", "Namespace")
        | ("pathlib", "PosixPath" | "PurePosixPath")
        | ("torch", "device")
        | ("numpy", "dtype")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "set" | "list" | "dict" | "int" | "float") => Global::Inert,
        _ => return Err(refused(module, name)),
    };
    Ok(global)
}

fn refused(module: &str, name: &str) -> String {
    format!(
        "the pickle imports `{}.{}`, which weights do not need; nothing was executed. Save the weights alone, with \
         torch.save(model.state_dict(), PATH) or as safetensors",
        module.escape_debug(),
        name.escape_debug()
    )
}
