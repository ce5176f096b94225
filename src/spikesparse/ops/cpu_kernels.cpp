// The neuron scan on a CPU; ops/reference.py is its definition, ops/cpu.py its caller.
//
// Neurons are taken a tile at a time: some windows of the image, each with some channels side by side, at most LANES
// neurons in all. A tile goes through all time steps while its membranes lie in the cache; every loop over lanes is one
// that the compiler turns into vector instructions. Built with -ffp-contract=off: a product and a sum are two
// roundings, as in the reference, so that the same spikes come out to the last bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" {

enum Surrogate { ATAN, SIGMOID, FAST_SIGMOID, TRIANGLE, RECTANGLE, LEE2020 };  // the order of SURROGATES

struct Scan {
  int64_t timesteps, steps;  // steps is 1 for a current that is the same in all of them
  int64_t batch, height, width, channels;
  const void *y;              // (steps, batch, height, width, channels), float or bfloat16
  const float *scale, *shift; // (channels), or null
  float decay, threshold, slope;
  int32_t bfloat16, pool, soft_reset, detach_reset, strict, surrogate, threads;
};
}

namespace {

constexpr int LANES = 128;
constexpr int64_t CACHE_FLOATS = 1 << 14;  // of a tile's steps: half of a 64-kB first-level cache, or less
constexpr int64_t CHUNKS = 64;             // of the work; a fixed number, so that sums do not depend on the threads

struct BFloat16 { uint16_t bits; };

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline void from_float(float value, float &out) { out = value; }
inline void from_float(float value, BFloat16 &out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  out.bits = uint16_t(value != value ? 0x7fc0 : rounded);
}

// Where a tile's neurons are. Lane = segment * width + channel; a segment is a window, or without a pool a position.
struct Tile {
  int segments, width, lanes;
  int64_t first_window, first_channel;
};

struct Tiles {
  const Scan &scan;
  int subs;                                // neurons of a window in each channel: 4, or 1 without a pool
  int64_t rows, columns, out_rows, out_columns, windows;
  int64_t width, segments, blocks, count;  // blocks of channels; tiles are numbered window group by window group
  int64_t step_size;                       // values in a step of y

  explicit Tiles(const Scan &s) : scan(s), subs(s.pool ? 4 : 1) {
    rows = s.pool ? (s.height + 1) / 2 : s.height;
    columns = s.pool ? (s.width + 1) / 2 : s.width;
    out_rows = s.pool ? s.height / 2 : s.height;
    out_columns = s.pool ? s.width / 2 : s.width;
    windows = s.batch * rows * columns;
    step_size = s.batch * s.height * s.width * s.channels;
    int64_t fits = std::clamp<int64_t>(CACHE_FLOATS / (subs * s.timesteps) / 16 * 16, 16, LANES);
    width = std::min(s.channels, fits);
    segments = std::max<int64_t>(1, fits / width);
    blocks = (s.channels + width - 1) / width;
    count = (windows + segments - 1) / segments * blocks;
  }

  Tile operator[](int64_t number) const {
    int64_t window = number / blocks * segments, channel = number % blocks * width;
    int wide = int(std::min(width, scan.channels - channel)), many = int(std::min(segments, windows - window));
    return {many, wide, many * wide, window, channel};
  }

  // Offset within a step of y of a segment's neuron number `sub`; -1 where the border cuts it off.
  int64_t input(const Tile &tile, int segment, int sub) const {
    int64_t window = tile.first_window + segment;
    if (!scan.pool) return window * scan.channels + tile.first_channel;
    int64_t image = window / (rows * columns), place = window % (rows * columns);
    int64_t y = place / columns * 2 + sub / 2, x = place % columns * 2 + sub % 2;
    if (y >= scan.height || x >= scan.width) return -1;
    return ((image * scan.height + y) * scan.width + x) * scan.channels + tile.first_channel;
  }

  // The position of a segment's output within a step; -1 for a window that the border cuts.
  int64_t output(const Tile &tile, int segment) const {
    int64_t window = tile.first_window + segment;
    if (!scan.pool) return window;
    int64_t image = window / (rows * columns), place = window % (rows * columns);
    int64_t y = place / columns, x = place % columns;
    return y < out_rows && x < out_columns ? (image * out_rows + y) * out_columns + x : -1;
  }

  int64_t out_positions() const { return scan.batch * out_rows * out_columns; }

  // Calls work(chunk, tile) for all tiles, threads taking whole chunks; a window's tiles stay within one.
  template <class Work> void run(const Work &work) const {
    bool by_tile = windows == 1;  // neurons without positions: there is nothing to keep together
    int64_t group = by_tile ? 1 : blocks, groups = count / group;
#pragma omp parallel for num_threads(scan.threads) schedule(dynamic)
    for (int64_t chunk = 0; chunk < CHUNKS; ++chunk)
      for (int64_t i = groups * chunk / CHUNKS * group; i < groups * (chunk + 1) / CHUNKS * group; ++i)
        work(chunk, (*this)[i]);
  }
};

// The forward pass of one step: current, membrane, spikes, reset.

template <class T> void load_y(const Tiles &tiles, const Tile &tile, int64_t step, int sub, float *y) {
  const T *values = static_cast<const T *>(tiles.scan.y) + (tiles.scan.steps == 1 ? 0 : step) * tiles.step_size;
  for (int k = 0; k < tile.segments; ++k) {
    int64_t at = tiles.input(tile, k, sub);
    float *lane = y + k * tile.width;
    if (at < 0) std::fill_n(lane, tile.width, 0.0f);
    else for (int c = 0; c < tile.width; ++c) lane[c] = to_float(values[at + c]);
  }
}

// x = y * scale + shift. Where the border cuts a neuron off, its current is 0 and it never fires.
void current_of(const Tiles &tiles, const Tile &tile, int sub, const float *y, float *x) {
  const Scan &scan = tiles.scan;
  if (!scan.scale) { std::copy_n(y, tile.lanes, x); return; }
  const float *scale = scan.scale + tile.first_channel, *shift = scan.shift + tile.first_channel;
  for (int k = 0; k < tile.segments; ++k) {
    bool cut = tiles.input(tile, k, sub) < 0;
    const float *in = y + k * tile.width;
    float *out = x + k * tile.width;
    for (int c = 0; c < tile.width; ++c) out[c] = in[c] * scale[c] + shift[c];
    if (cut) std::fill_n(out, tile.width, 0.0f);
  }
}

inline float after_reset(const Scan &scan, float h, bool s) {
  return scan.soft_reset ? h - (s ? scan.threshold : 0.0f) : (s ? 0.0f : h);
}

// h = decay * v + x; a spike where h reaches the threshold; v after the reset.
void step(const Scan &scan, int lanes, const float *x, float *v, float *h, uint8_t *s) {
  float decay = scan.decay, threshold = scan.threshold;
  for (int l = 0; l < lanes; ++l) h[l] = decay * v[l] + x[l];
  if (scan.strict) for (int l = 0; l < lanes; ++l) s[l] = h[l] > threshold;
  else for (int l = 0; l < lanes; ++l) s[l] = h[l] >= threshold;
  if (scan.soft_reset) for (int l = 0; l < lanes; ++l) v[l] = h[l] - (s[l] ? threshold : 0.0f);
  else for (int l = 0; l < lanes; ++l) v[l] = s[l] ? 0.0f : h[l];
}

// Eight zeros and ones, a byte each -> the bits of one byte.
inline uint8_t pack_eight(const uint8_t *s) {
  uint64_t bytes;
  std::memcpy(&bytes, s, 8);
  return uint8_t((bytes * 0x0102040810204080ull) >> 56);
}

void pack_row(const uint8_t *s, int width, uint8_t *bits) {
  int whole = width / 8;
  for (int j = 0; j < whole; ++j) bits[j] = pack_eight(s + 8 * j);
  if (width % 8) {
    uint8_t rest[8] = {};
    std::copy_n(s + 8 * whole, width % 8, rest);
    bits[whole] = pack_eight(rest);
  }
}

template <class T> void forward(const Scan &scan, T *spikes, uint8_t *bits, int32_t *fired, int32_t *events) {
  Tiles tiles(scan);
  int64_t row_bytes = (scan.channels + 7) / 8;
  tiles.run([&](int64_t, const Tile &tile) {
    float x[4][LANES], v[4][LANES] = {}, h[LANES];
    uint8_t s[4][LANES];
    for (int64_t t = 0; t < scan.timesteps; ++t) {
      for (int sub = 0; sub < tiles.subs; ++sub) {
        if (t == 0 || scan.steps > 1) {
          load_y<T>(tiles, tile, t, sub, x[sub]);
          current_of(tiles, tile, sub, x[sub], x[sub]);
        }
        step(scan, tile.lanes, x[sub], v[sub], h, s[sub]);
      }
      if (fired) {
        for (int k = 0; k < tile.segments; ++k) {
          int32_t sum = 0;
          for (int sub = 0; sub < tiles.subs; ++sub)
            for (int c = 0; c < tile.width; ++c) sum += s[sub][k * tile.width + c];
          fired[tile.first_window + k] += sum;
        }
      }
      for (int sub = 1; sub < tiles.subs; ++sub)  // the largest of the window, in place of its first
        for (int l = 0; l < tile.lanes; ++l) s[0][l] |= s[sub][l];
      for (int k = 0; k < tile.segments; ++k) {
        int64_t position = tiles.output(tile, k);
        if (position < 0) continue;
        int64_t row = t * tiles.out_positions() + position;
        const uint8_t *out = s[0] + k * tile.width;
        T *dense = spikes + row * scan.channels + tile.first_channel;
        for (int c = 0; c < tile.width; ++c) from_float(float(out[c]), dense[c]);
        if (bits) pack_row(out, tile.width, bits + row * row_bytes + tile.first_channel / 8);
        if (events) {
          int32_t sum = 0;
          for (int c = 0; c < tile.width; ++c) sum += out[c];
          events[position] += sum;
        }
      }
    }
  });
}

// exp(x) to about 1e-7 of itself for x <= 0, in a form that turns into vector instructions (libm's does not): 2^n times
// the Taylor polynomial of what is left, |r| <= ln(2) / 2.
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  float n = std::nearbyint(x * 1.44269504f);
  float r = x - n * 0.693145752f - n * 1.42860677e-6f;
  float p = 1.0f + r * (1.0f + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
  uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// The stand-in for ds/dh at h; surrogate.py has the formulas and their papers.
void derivative(const Scan &scan, int lanes, const float *h, const uint8_t *s, float *sigma) {
  float k = scan.slope, threshold = scan.threshold;
  auto each = [&](auto formula) { for (int l = 0; l < lanes; ++l) sigma[l] = formula(h[l] - threshold); };
  switch (scan.surrogate) {
    case ATAN: {
      float width = float(M_PI / 2) * k;
      each([=](float d) { float z = d * width; return (k / 2) / (z * z + 1.0f); });
      break;
    }
    case SIGMOID:
      each([=](float d) { float e = exp_negative(-std::fabs(d * k)); return k * e / ((1.0f + e) * (1.0f + e)); });
      break;
    case FAST_SIGMOID: each([=](float d) { float z = std::fabs(d) * k + 1.0f; return 1.0f / (z * z); }); break;
    case TRIANGLE: each([=](float d) { return std::max(0.0f, 1.0f - std::fabs(d) * k); }); break;
    case RECTANGLE: each([=](float d) { return std::fabs(d) < 0.5f / k ? k : 0.0f; }); break;
    case LEE2020: for (int l = 0; l < lanes; ++l) sigma[l] = s[l] ? k / threshold : 0.0f;
  }
}

// What a thread needs to take a tile back through time: per neuron of the window and step, LANES values.
struct Workspace {
  std::vector<float> y, h, grad;
  std::vector<uint8_t> s;
  void fit(size_t values) {
    if (y.size() >= values) return;
    y.resize(values), h.resize(values), grad.resize(values), s.resize(values);
  }
};

// The gradient of every neuron's spikes in step t: through the pool to the window's first of the largest, by counts.
template <class T>
void load_gradient(const Tiles &tiles, const Tile &tile, int64_t t, const T *grad_spikes, const float *grad_fired,
                   const float *grad_events, const uint8_t *const s[4], float *const grad[4]) {
  const Scan &scan = tiles.scan;
  float arriving[LANES];
  for (int k = 0; k < tile.segments; ++k) {
    int64_t position = tiles.output(tile, k);
    float *lane = arriving + k * tile.width;
    if (position < 0) { std::fill_n(lane, tile.width, 0.0f); continue; }
    const T *dense = grad_spikes + (t * tiles.out_positions() + position) * scan.channels + tile.first_channel;
    float event = grad_events ? grad_events[position] : 0.0f;
    for (int c = 0; c < tile.width; ++c) lane[c] = to_float(dense[c]) + event;
  }
  if (tiles.subs == 1) std::copy_n(arriving, tile.lanes, grad[0]);
  else
    for (int l = 0; l < tile.lanes; ++l) {
      bool a = s[0][l], b = s[1][l], c = s[2][l], d = s[3][l];
      bool first = a || !(b || c || d);
      grad[0][l] = first ? arriving[l] : 0.0f;
      grad[1][l] = !first && b ? arriving[l] : 0.0f;
      grad[2][l] = !first && !b && c ? arriving[l] : 0.0f;
      grad[3][l] = !first && !b && !c ? arriving[l] : 0.0f;
    }
  if (!grad_fired) return;
  for (int sub = 0; sub < tiles.subs; ++sub)
    for (int k = 0; k < tile.segments; ++k) {
      if (tiles.input(tile, k, sub) < 0) continue;
      float each = grad_fired[tile.first_window + k];
      for (int c = 0; c < tile.width; ++c) grad[sub][k * tile.width + c] += each;
    }
}

// Lee et al. 2020's factor on all of a neuron's spike gradients; Lee2020 in surrogate.py.
void correct_for_leak(const Scan &scan, int lanes, const uint8_t *s, float *grad) {
  float filtered[LANES] = {}, total[LANES] = {}, log_decay = std::log(scan.decay);
  for (int64_t t = 0; t < scan.timesteps; ++t)
    for (int l = 0; l < lanes; ++l) {
      filtered[l] = filtered[l] * scan.decay + float(s[t * LANES + l]);
      total[l] += float(s[t * LANES + l]);
    }
  for (int l = 0; l < lanes; ++l)
    filtered[l] = (filtered[l] > 1e-3f ? 1.0f : 0.0f) + log_decay * filtered[l] / std::max(total[l], 1.0f);
  for (int64_t t = 0; t < scan.timesteps; ++t)
    for (int l = 0; l < lanes; ++l) grad[t * LANES + l] *= filtered[l];
}

// One neuron of each window back through time: grad, of the spikes, becomes the gradient of the current. Adds to
// learned the gradients of decay and threshold unless it is null.
void back_through_time(const Scan &scan, int lanes, const float *h, const uint8_t *s, float *grad, double *learned) {
  float grad_v[LANES] = {}, sigma[LANES];  // grad_v: with respect to the membrane after step t, from step t + 1
  float decay = scan.decay, threshold = scan.threshold;
  bool soft = scan.soft_reset, through = !scan.detach_reset;
  for (int64_t t = scan.timesteps - 1; t >= 0; --t) {
    const float *ht = h + t * LANES;
    const uint8_t *st = s + t * LANES;
    float *g = grad + t * LANES;
    derivative(scan, lanes, ht, st, sigma);
    for (int l = 0; l < lanes; ++l) g[l] *= sigma[l];
    if (learned) {
      double of_threshold = 0;
      for (int l = 0; l < lanes; ++l) {
        float kept = soft ? (through ? st[l] - threshold * sigma[l] : st[l]) : (through ? -ht[l] * sigma[l] : 0.0f);
        of_threshold -= g[l] + grad_v[l] * kept;
      }
      learned[1] += of_threshold;
    }
    if (through) for (int l = 0; l < lanes; ++l) g[l] -= grad_v[l] * sigma[l] * (soft ? threshold : ht[l]);
    if (soft) for (int l = 0; l < lanes; ++l) g[l] += grad_v[l];
    else for (int l = 0; l < lanes; ++l) g[l] += st[l] ? 0.0f : grad_v[l];
    if (learned && t > 0) {
      double of_decay = 0;
      for (int l = 0; l < lanes; ++l) of_decay += g[l] * after_reset(scan, ht[l - LANES], st[l - LANES]);
      learned[0] += of_decay;
    }
    for (int l = 0; l < lanes; ++l) grad_v[l] = g[l] * decay;
  }
}

template <class T>
void backward(const Scan &scan, const T *grad_spikes, const float *grad_fired, const float *grad_events,
              const float *center, const float *coefficients, double *channel_sums, double *learned, T *grad_y) {
  Tiles tiles(scan);
  int64_t steps = scan.timesteps, channels = scan.channels, of_sub = steps * LANES;
  tiles.run([&](int64_t chunk, const Tile &tile) {
    static thread_local Workspace space;
    space.fit(size_t(tiles.subs * of_sub));
    float v[4][LANES] = {}, x[LANES];
    for (int64_t t = 0; t < steps; ++t)
      for (int sub = 0; sub < tiles.subs; ++sub) {
        int64_t at = sub * of_sub + t * LANES;
        if (scan.steps > 1 || t == 0) load_y<T>(tiles, tile, t, sub, &space.y[at]);
        current_of(tiles, tile, sub, &space.y[scan.steps > 1 ? at : sub * of_sub], x);
        step(scan, tile.lanes, x, v[sub], &space.h[at], &space.s[at]);
      }
    for (int64_t t = 0; t < steps; ++t) {
      const uint8_t *s[4] = {};
      float *grad[4] = {};
      for (int sub = 0; sub < tiles.subs; ++sub) {
        s[sub] = &space.s[sub * of_sub + t * LANES];
        grad[sub] = &space.grad[sub * of_sub + t * LANES];
      }
      load_gradient(tiles, tile, t, grad_spikes, grad_fired, grad_events, s, grad);
    }
    float sum_g[LANES] = {}, sum_gy[LANES] = {};
    for (int sub = 0; sub < tiles.subs; ++sub) {
      float *grad = &space.grad[sub * of_sub], *y = &space.y[sub * of_sub];
      const uint8_t *s = &space.s[sub * of_sub];
      if (scan.surrogate == LEE2020) correct_for_leak(scan, tile.lanes, s, grad);
      back_through_time(scan, tile.lanes, &space.h[sub * of_sub], s, grad, learned ? learned + 2 * chunk : nullptr);
      if (scan.steps == 1)
        for (int64_t t = 1; t < steps; ++t)
          for (int l = 0; l < tile.lanes; ++l) grad[l] += grad[t * LANES + l];
      if (center)
        for (int64_t t = 0; t < scan.steps; ++t)
          for (int k = 0; k < tile.segments; ++k)
            for (int c = 0; c < tile.width; ++c) y[t * LANES + k * tile.width + c] -= center[tile.first_channel + c];
      if (channel_sums)
        for (int64_t t = 0; t < scan.steps; ++t)
          for (int l = 0; l < tile.lanes; ++l) {
            sum_g[l] += grad[t * LANES + l];
            sum_gy[l] += grad[t * LANES + l] * y[t * LANES + l];
          }
      if (!grad_y) continue;
      for (int64_t t = 0; t < scan.steps; ++t)
        for (int k = 0; k < tile.segments; ++k) {
          int64_t at = tiles.input(tile, k, sub);
          if (at < 0) continue;
          T *out = grad_y + t * tiles.step_size + at;
          const float *g = grad + t * LANES + k * tile.width, *yc = y + t * LANES + k * tile.width;
          if (!coefficients) for (int c = 0; c < tile.width; ++c) from_float(g[c], out[c]);
          else {
            const float *a = coefficients + tile.first_channel, *b = a + channels, *d = b + channels;
            for (int c = 0; c < tile.width; ++c) from_float(a[c] * g[c] + b[c] * yc[c] + d[c], out[c]);
          }
        }
    }
    if (channel_sums) {
      double *sums = channel_sums + 2 * channels * chunk + tile.first_channel;
      for (int k = 0; k < tile.segments; ++k)
        for (int c = 0; c < tile.width; ++c) {
          sums[c] += sum_g[k * tile.width + c];
          sums[channels + c] += sum_gy[k * tile.width + c];
        }
    }
  });
}

template <class T> void moments(const T *y, int64_t rows, int64_t channels, int threads, double *sums) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t chunk = 0; chunk < CHUNKS; ++chunk) {
    double *sum = sums + 2 * channels * chunk, *squares = sum + channels;
    for (int64_t row = rows * chunk / CHUNKS; row < rows * (chunk + 1) / CHUNKS; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        double value = double(to_float(y[row * channels + c])) - double(to_float(y[c]));  // small where the mean is not
        sum[c] += value;
        squares[c] += value * value;
      }
  }
}

template <class T> void pack(const T *x, int64_t rows, int64_t channels, int threads, uint8_t *bits) {
  int64_t row_bytes = (channels + 7) / 8;
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < channels; c += LANES) {
      uint8_t s[LANES];
      int width = int(std::min<int64_t>(LANES, channels - c));
      for (int l = 0; l < width; ++l) s[l] = to_float(x[row * channels + c + l]) != 0.0f;
      pack_row(s, width, bits + row * row_bytes + c / 8);
    }
}

template <class T> void unpack(const uint8_t *bits, int64_t rows, int64_t channels, int threads, T *x) {
  int64_t row_bytes = (channels + 7) / 8;
  T one;
  from_float(1.0f, one);
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t *from = bits + row * row_bytes;
    T *to = x + row * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = (from[c / 8] >> (c % 8)) & 1 ? one : T{};
  }
}

}  // namespace

// Sums are filled chunk by chunk, (CHUNKS, ...), from zeros; the caller adds them up in order.
extern "C" {

int64_t spikesparse_chunks() { return CHUNKS; }

void spikesparse_forward(const Scan *scan, void *spikes, uint8_t *bits, int32_t *fired, int32_t *events) {
  if (scan->bfloat16) forward(*scan, static_cast<BFloat16 *>(spikes), bits, fired, events);
  else forward(*scan, static_cast<float *>(spikes), bits, fired, events);
}

void spikesparse_backward(const Scan *scan, const void *grad_spikes, const float *grad_fired, const float *grad_events,
                          const float *center, const float *coefficients, double *channel_sums, double *learned,
                          void *grad_y) {
  if (scan->bfloat16)
    backward(*scan, static_cast<const BFloat16 *>(grad_spikes), grad_fired, grad_events, center, coefficients,
             channel_sums, learned, static_cast<BFloat16 *>(grad_y));
  else
    backward(*scan, static_cast<const float *>(grad_spikes), grad_fired, grad_events, center, coefficients,
             channel_sums, learned, static_cast<float *>(grad_y));
}

void spikesparse_moments(const void *y, int bfloat16, int64_t rows, int64_t channels, int threads, double *sums) {
  if (bfloat16) moments(static_cast<const BFloat16 *>(y), rows, channels, threads, sums);
  else moments(static_cast<const float *>(y), rows, channels, threads, sums);
}

void spikesparse_pack(const void *x, int bfloat16, int64_t rows, int64_t channels, int threads, uint8_t *bits) {
  if (bfloat16) pack(static_cast<const BFloat16 *>(x), rows, channels, threads, bits);
  else pack(static_cast<const float *>(x), rows, channels, threads, bits);
}

void spikesparse_unpack(const uint8_t *bits, int bfloat16, int64_t rows, int64_t channels, int threads, void *x) {
  if (bfloat16) unpack(bits, rows, channels, threads, static_cast<BFloat16 *>(x));
  else unpack(bits, rows, channels, threads, static_cast<float *>(x));
}
}
