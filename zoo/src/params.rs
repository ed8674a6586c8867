//! The parameters of a model: where their first values come from, and which of them are trained.

use crate::ops::conv::forget_kept_filters;
use crate::random::{Key, Stream, stream_of};
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::init::{Init, NormalOrUniform};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parameters and buffers of one model, by name. A clone is another handle to the same ones.
///
/// Construction of a model through [`Params::var_builder`] fills it. A value comes from what was
/// [loaded](Params::load), otherwise from the seed: each name has its own stream of random numbers,
/// so neither the order of construction nor the number of threads changes a bit.
///
/// Everything is listed sorted by name.
#[derive(Clone)]
pub struct Params(Arc<Mutex<State>>);

struct State {
    seed: u64,
    loaded: Option<Loaded>,
    frozen: Vec<(NameFilter, NormPolicy)>,
    entries: BTreeMap<String, Entry>,
}

type NameFilter = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// A parameter as the model holds it.
struct Entry {
    /// A `Var`, but for what is frozen.
    tensor: Tensor,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Trainable,
    /// A running statistic: not trained, updated by the forward pass.
    Buffer,
    /// Constant. The model holds it as a plain tensor, so candle records no graph for it. What was loaded
    /// is not copied: reading a checkpoint to predict takes its size in memory once.
    Frozen,
}

/// What becomes of the running statistics of a frozen batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPolicy {
    /// The norm uses them, in training too, and never updates them.
    Frozen,
    /// The norm uses the batch's statistics in training and goes on updating the running ones.
    Update,
}

/// The values that a checkpoint has for a model, under the model's names and in its shapes.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// A value for each name of `report.loaded` and of what was reshaped and kept.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where each name's value comes from.
    pub report: LoadReport,
}

/// What was taken from a checkpoint and what was not. All lists are sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The model's names whose values are the file's.
    pub loaded: Vec<String>,
    /// The model's names whose values come from the seed.
    pub initialised: Vec<String>,
    /// The file's names that the model has no use for.
    pub unused: Vec<String>,
    /// The model's names whose shape differs in the file, and what was done about it.
    pub reshaped: Vec<Reshaped>,
}

/// A tensor whose shape in the file is not the model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshaped {
    /// The model's name.
    pub name: String,
    /// The shape in the file.
    pub from: Vec<usize>,
    /// The shape in the model.
    pub to: Vec<usize>,
    /// How the value was made.
    pub how: Reshape,
}

/// How a value in the model's shape was made of one in another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reshape {
    /// The head has another number of classes: it is new, from the seed, and also in `initialised`.
    NewHead,
    /// The first convolution has another number of input channels.
    Channels,
    /// A 2D kernel became a 3D kernel.
    Inflated,
    /// A 2D kernel became a 3D kernel, of another number of input channels.
    ChannelsInflated,
    /// Named as allowed to differ: it is new, from the seed, and also in `initialised`.
    New,
}

impl Params {
    /// No parameters yet; those that a model asks for start from `seed`.
    pub fn new(seed: u64) -> Self {
        Params(Arc::new(Mutex::new(State { seed, loaded: None, frozen: Vec::new(), entries: BTreeMap::new() })))
    }

    /// Gives the model that is built next its first values.
    ///
    /// # Errors
    /// After a model was built: the values would come too late.
    pub fn load(&self, loaded: Loaded) -> Result<()> {
        let mut state = self.lock();
        state.check_not_built("weights must be loaded")?;
        state.loaded = Some(loaded);
        Ok(())
    }

    /// Makes constants of the parameters whose names `matches`; of several calls the last one that
    /// matches decides.
    ///
    /// # Errors
    /// After a model was built: its layers hold their parameters already.
    pub fn freeze(&self, matches: impl Fn(&str) -> bool + Send + Sync + 'static, norms: NormPolicy) -> Result<()> {
        let mut state = self.lock();
        state.check_not_built("parameters must be frozen")?;
        state.frozen.push((Box::new(matches), norms));
        Ok(())
    }

    /// What a model's constructor takes. The same name gives the same parameter again.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// The parameters that an optimizer should train.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        self.vars(Role::Trainable)
    }

    /// The running statistics that the forward pass updates.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.vars(Role::Buffer)
    }

    /// Every parameter and buffer, frozen ones too, as a checkpoint holds them. The tensors share
    /// memory with the model: they follow its training until they are copied.
    pub fn state_dict(&self) -> BTreeMap<String, Tensor> {
        self.lock().entries.iter().map(|(name, entry)| (name.clone(), entry.tensor.detach())).collect()
    }

    /// Overwrites every parameter and buffer, in place.
    ///
    /// # Errors
    /// Where a name is missing or unknown, or a shape differs; nothing is changed then.
    pub fn set_state_dict(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let state = self.lock();
        if let Some(name) = values.keys().find(|name| !state.entries.contains_key(*name)) {
            bail!("the model has no parameter `{name}`: the checkpoint is of another model");
        }
        for (name, entry) in &state.entries {
            match values.get(name) {
                None => bail!("the checkpoint has no parameter `{name}`: it is of another model"),
                Some(value) if value.shape() != entry.tensor.shape() => bail!(
                    "`{name}` has the shape {:?} in the checkpoint and {:?} in the model",
                    value.dims(),
                    entry.tensor.dims()
                ),
                Some(_) => {}
            }
        }
        for (name, entry) in &state.entries {
            entry.overwrite(&values[name])?;
        }
        forget_kept_filters();
        Ok(())
    }

    /// Where the values came from. Complete when the model is built.
    pub fn report(&self) -> LoadReport {
        let state = self.lock();
        match &state.loaded {
            Some(loaded) => loaded.report.clone(),
            None => LoadReport { initialised: state.entries.keys().cloned().collect(), ..LoadReport::default() },
        }
    }

    /// Numbers in all parameters, and in those that are trained. Running statistics do not count.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        let count = |of: &dyn Fn(&str, &Entry) -> bool| {
            state
                .entries
                .iter()
                .filter(|(name, entry)| of(name, entry))
                .map(|(_, entry)| entry.tensor.elem_count())
                .sum()
        };
        (count(&|name, _| !is_running_statistic(name)), count(&|_, entry| entry.role == Role::Trainable))
    }

    /// Those of a role whose tensors are `Var`s.
    fn vars(&self, role: Role) -> Vec<(String, Var)> {
        let state = self.lock();
        let of_role = state.entries.iter().filter(|(_, entry)| entry.role == role);
        let var = |entry: &Entry| Var::from_tensor(&entry.tensor).expect("it is a Var, so nothing is copied");
        of_role.map(|(name, entry)| (name.clone(), var(entry))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, hint: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get(name) {
            if entry.tensor.shape() != &shape {
                bail!("`{name}` was built with the shape {:?} and is now asked for as {shape:?}", entry.tensor.dims());
            }
            return Ok(entry.tensor.clone());
        }
        let value = match state.take_loaded(name)? {
            Some(value) if value.shape() != &shape => {
                bail!("`{name}` was loaded with the shape {:?}, the model asks for {shape:?}", value.dims())
            }
            Some(value) => value.to_device(device)?.to_dtype(dtype)?,
            None => seeded(state.seed, name, &shape, hint, dtype, device)?,
        };
        state.insert(name, value)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get(name) {
            return Ok(entry.tensor.clone());
        }
        match state.take_loaded(name)? {
            Some(value) => {
                let value = value.to_device(device)?.to_dtype(dtype)?;
                state.insert(name, value)
            }
            None => bail!("`{name}` is not loaded: ask for it with a shape, so that it can be initialised"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let state = self.lock();
        state.entries.contains_key(name)
            || state.loaded.as_ref().is_some_and(|loaded| loaded.tensors.contains_key(name))
    }
}

impl State {
    fn check_not_built(&self, what: &str) -> Result<()> {
        if !self.entries.is_empty() {
            bail!("{what} before the model is built");
        }
        Ok(())
    }

    /// The loaded value of a name, or nothing where the name is to be initialised. Values move to
    /// the model, so that a checkpoint is not held in memory twice.
    fn take_loaded(&mut self, name: &str) -> Result<Option<Tensor>> {
        let Some(loaded) = &mut self.loaded else { return Ok(None) };
        let value = loaded.tensors.remove(name);
        if value.is_none() && loaded.report.initialised.binary_search_by(|known| known.as_str().cmp(name)).is_err() {
            bail!("weights were loaded for a model without `{name}`: load them for the model that is built");
        }
        Ok(value)
    }

    fn insert(&mut self, name: &str, value: Tensor) -> Result<Tensor> {
        let role = self.role(name);
        let tensor = match role {
            Role::Trainable | Role::Buffer => Var::from_tensor(&value)?.into_inner(),
            Role::Frozen => value.detach().contiguous()?,
        };
        self.entries.insert(name.to_owned(), Entry { tensor: tensor.clone(), role });
        Ok(tensor)
    }

    fn role(&self, name: &str) -> Role {
        let frozen = self.frozen.iter().rev().find(|(matches, _)| matches(name)).map(|(_, norms)| *norms);
        match (is_running_statistic(name), frozen) {
            (true, Some(NormPolicy::Frozen)) | (false, Some(_)) => Role::Frozen,
            (true, _) => Role::Buffer,
            (false, None) => Role::Trainable,
        }
    }
}

impl Entry {
    /// In place, so that the model follows.
    fn overwrite(&self, value: &Tensor) -> Result<()> {
        let value = value.to_device(self.tensor.device())?.to_dtype(self.tensor.dtype())?;
        match self.role {
            Role::Trainable | Role::Buffer => Var::from_tensor(&self.tensor)?.set(&value),
            Role::Frozen => self.tensor.flatten_all()?.slice_set(&value.contiguous()?.flatten_all()?, 0, 0),
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Params").field("seed", &state.seed).field("tensors", &state.entries.len()).finish()
    }
}

/// Whether the name is of a batch norm's running statistic, which is a buffer and no parameter.
pub fn is_running_statistic(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
}

/// Draws of one key; fixed, since it is part of what a seed means.
const CHUNK: usize = 4096;

fn seeded(seed: u64, name: &str, shape: &Shape, hint: Init, dtype: DType, device: &Device) -> Result<Tensor> {
    match hint {
        Init::Const(value) => Tensor::full(value, shape, device)?.to_dtype(dtype),
        Init::Randn { mean, stdev } => {
            drawn(seed, name, shape, dtype, device, move |stream| mean + stdev * stream.normal())
        }
        Init::Uniform { lo, up } => {
            drawn(seed, name, shape, dtype, device, move |stream| lo + (up - lo) * stream.unit_f64())
        }
        Init::Kaiming { dist, fan, non_linearity } => {
            let stdev = non_linearity.gain() / (fan.for_shape(shape).max(1) as f64).sqrt();
            let bound = 3f64.sqrt() * stdev;
            let hint = match dist {
                NormalOrUniform::Normal => Init::Randn { mean: 0., stdev },
                NormalOrUniform::Uniform => Init::Uniform { lo: -bound, up: bound },
            };
            seeded(seed, name, shape, hint, dtype, device)
        }
    }
}

fn drawn(
    seed: u64,
    name: &str,
    shape: &Shape,
    dtype: DType,
    device: &Device,
    draw: impl Fn(&mut Stream) -> f64 + Sync,
) -> Result<Tensor> {
    let stream = stream_of(name);
    let mut values = vec![0f64; shape.elem_count()];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        let mut stream = Stream::new(Key { seed, stream, step: 0, index: index as u64 });
        chunk.fill_with(|| draw(&mut stream));
    });
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded.len())?;
        let kept = |reshaped: &&Reshaped| !matches!(reshaped.how, Reshape::NewHead | Reshape::New);
        match self.reshaped.iter().filter(kept).count() {
            0 => {}
            kept => write!(f, ", {kept} reshaped")?,
        }
        if !self.initialised.is_empty() {
            write!(f, ", {} initialised from the seed ({})", self.initialised.len(), abridged(&self.initialised))?;
        }
        if !self.unused.is_empty() {
            write!(f, ", {} of the file unused ({})", self.unused.len(), abridged(&self.unused))?;
        }
        for reshaped in &self.reshaped {
            write!(f, "\n  {reshaped}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reshaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} -> {:?}, {}", self.name, self.from, self.to, self.how)
    }
}

impl fmt::Display for Reshape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reshape::NewHead => "a new head",
            Reshape::Channels => "adapted to the input channels",
            Reshape::Inflated => "inflated to 3D",
            Reshape::ChannelsInflated => "adapted to the input channels and inflated to 3D",
            Reshape::New => "new",
        })
    }
}

/// The first names of a list, for people.
pub(crate) fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Conv, ConvConfig};
    use candle_nn::init::{FanInOut, NonLinearity};

    const KAIMING: Init =
        Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn built(params: &Params) -> Result<Tensor> {
        let vb = params.var_builder(DType::F32, &Device::Cpu);
        vb.get_with_hints(4, "bn.running_mean", Init::Const(0.))?;
        vb.get_with_hints(4, "bn.weight", Init::Const(1.))?;
        vb.get_with_hints((64, 32, 3, 3), "conv.weight", KAIMING)
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() -> Result<()> {
        let first = built(&Params::new(7))?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let params = Params::new(7);
        let vb = params.var_builder(DType::F32, &Device::Cpu);
        let second = pool.install(|| vb.pp("conv").get_with_hints((64, 32, 3, 3), "weight", KAIMING))?;
        assert_eq!(values(&first), values(&second));
        assert_ne!(values(&first), values(&built(&Params::new(8))?));
        let other = vb.get_with_hints((64, 32, 3, 3), "other.weight", KAIMING)?;
        assert_ne!(values(&first), values(&other));
        Ok(())
    }

    #[test]
    fn hints_are_honoured() -> Result<()> {
        let vb = Params::new(1).var_builder(DType::F64, &Device::Cpu);
        let deviation = |tensor: &Tensor| -> Result<f64> { tensor.sqr()?.mean_all()?.sqrt()?.to_scalar::<f64>() };
        let normal = deviation(&vb.get_with_hints((64, 32, 3, 3), "a", KAIMING)?)?;
        assert!((normal / (2f64 / (64. * 9.)).sqrt() - 1.).abs() < 0.02, "{normal}");
        let uniform = Init::Kaiming {
            dist: NormalOrUniform::Uniform,
            fan: FanInOut::FanIn,
            non_linearity: NonLinearity::ExplicitGain((1f64 / 3.).sqrt()),
        };
        let drawn = vb.get_with_hints((100, 64), "b", uniform)?;
        let bound = drawn.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(bound <= 1. / 8. && bound > 0.12, "{bound}");
        let ranged = vb.get_with_hints(1000, "c", Init::Uniform { lo: 2., up: 3. })?.to_vec1::<f64>()?;
        assert!(ranged.iter().all(|x| (2. ..3.).contains(x)));
        assert_eq!(vb.get_with_hints(2, "d", Init::Const(0.25))?.to_vec1::<f64>()?, [0.25, 0.25]);
        let half = Params::new(1).var_builder(DType::BF16, &Device::Cpu).get_with_hints(3, "d", KAIMING)?;
        assert_eq!(half.dtype(), DType::BF16);
        Ok(())
    }

    #[test]
    fn a_name_is_one_parameter() -> Result<()> {
        let params = Params::new(0);
        let (once, again) = (built(&params)?, built(&params)?);
        params.trainable()[1].1.set(&Tensor::ones((64, 32, 3, 3), DType::F32, &Device::Cpu)?)?;
        assert_eq!(values(&once)[0], 1.);
        assert_eq!(values(&again)[0], 1.);
        let vb = params.var_builder(DType::F32, &Device::Cpu);
        assert!(vb.get(5, "bn.weight").unwrap_err().to_string().contains("built with the shape [4]"));
        Ok(())
    }

    #[test]
    fn roles_follow_names_and_freezing() -> Result<()> {
        let names = |vars: Vec<(String, Var)>| vars.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let params = Params::new(0);
        built(&params)?;
        assert_eq!(names(params.trainable()), ["bn.weight", "conv.weight"]);
        assert_eq!(names(params.buffers()), ["bn.running_mean"]);
        assert_eq!(params.counts(), (4 + 64 * 32 * 9, 4 + 64 * 32 * 9));
        assert!(params.freeze(|_| true, NormPolicy::Frozen).is_err());

        for (policy, buffers) in [(NormPolicy::Frozen, 0), (NormPolicy::Update, 1)] {
            let params = Params::new(0);
            params.freeze(|name| name.starts_with("bn."), policy)?;
            assert!(built(&params)?.is_variable());
            assert_eq!(names(params.trainable()), ["conv.weight"]);
            assert_eq!(params.buffers().len(), buffers);
            let vb = params.var_builder(DType::F32, &Device::Cpu);
            assert!(!vb.get(4, "bn.weight")?.is_variable());
            assert_eq!(vb.get(4, "bn.running_mean")?.is_variable(), buffers == 1);
            assert_eq!(params.counts().1, 64 * 32 * 9);
            assert_eq!(params.state_dict().len(), 3);
        }
        Ok(())
    }

    #[test]
    fn a_state_dict_goes_back_in_exactly() -> Result<()> {
        let (from, to) = (Params::new(1), Params::new(2));
        to.freeze(|name| name == "conv.weight", NormPolicy::Frozen)?;
        built(&from)?;
        let held = built(&to)?;
        to.set_state_dict(&from.state_dict())?;
        assert_eq!(values(&held), values(&from.state_dict()["conv.weight"]), "a frozen tensor follows too");
        let conv = Conv::of(held, None, ConvConfig::new([3; 2]));
        let x = Tensor::ones((1, 5, 5, 32), DType::F32, &Device::Cpu)?;
        let before = conv.forward(&x)?;
        to.set_state_dict(&from.state_dict().into_iter().map(|(k, v)| Ok((k, (v * 2.)?))).collect::<Result<_>>()?)?;
        assert_eq!(values(&conv.forward(&x)?), values(&(before * 2.)?), "and so do the filters that a layer keeps");
        to.set_state_dict(&from.state_dict())?;

        let mut state = from.state_dict();
        state.insert("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu)?);
        assert!(to.set_state_dict(&state).unwrap_err().to_string().contains("no parameter `extra`"));
        state.remove("extra");
        state.insert("bn.weight".into(), Tensor::zeros(5, DType::F32, &Device::Cpu)?);
        assert!(to.set_state_dict(&state).unwrap_err().to_string().contains("[5] in the checkpoint"));
        state.remove("bn.weight");
        assert!(to.set_state_dict(&state).unwrap_err().to_string().contains("`bn.weight`"));
        Ok(())
    }

    #[test]
    fn loaded_values_come_first() -> Result<()> {
        let tensors = BTreeMap::from([("bn.weight".to_string(), Tensor::new(&[1f64, 2., 3., 4.], &Device::Cpu)?)]);
        let report = LoadReport {
            loaded: vec!["bn.weight".into()],
            initialised: vec!["bn.running_mean".into(), "conv.weight".into()],
            ..LoadReport::default()
        };
        let params = Params::new(3);
        params.load(Loaded { tensors: tensors.clone(), report: report.clone() })?;
        built(&params)?;
        assert_eq!(values(&params.state_dict()["bn.weight"]), [1., 2., 3., 4.]);
        assert_eq!(params.report(), report);
        assert!(report.to_string().starts_with("1 tensors loaded, 2 initialised from the seed (bn.running_mean"));

        let params = Params::new(3);
        params.load(Loaded { tensors, report: LoadReport { initialised: Vec::new(), ..report } })?;
        assert!(built(&params).unwrap_err().to_string().contains("without `bn.running_mean`"));
        Ok(())
    }
}
