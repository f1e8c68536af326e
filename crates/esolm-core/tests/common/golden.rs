//! Golden arrays of any type, by name.

use super::golden;

/// A golden safetensors file in memory.
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(name: &str) -> Self {
        Self(golden(name))
    }

    fn tensor(&self, name: &str, dtype: safetensors::Dtype) -> (Vec<usize>, Vec<u8>) {
        let view = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = view
            .tensor(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        let view = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        view.tensor(name).unwrap().shape().to_vec()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let (_, data) = self.tensor(name, safetensors::Dtype::F32);
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        let (_, data) = self.tensor(name, safetensors::Dtype::F64);
        data.chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.tensor(name, safetensors::Dtype::U8).1
    }

    /// An int32 array whose values are not negative, as one list.
    pub fn flat(&self, name: &str) -> Vec<u32> {
        let (_, data) = self.tensor(name, safetensors::Dtype::I32);
        data.chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .map(|value| u32::try_from(value).unwrap())
            .collect()
    }

    /// An int32 array by rows.
    pub fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let width = *self.shape(name).last().unwrap();
        let flat = self.flat(name);
        flat.chunks(width).map(<[u32]>::to_vec).collect()
    }
}
