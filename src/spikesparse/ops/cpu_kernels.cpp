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
#include <numeric>
#include <vector>

extern "C" {

enum Surrogate { ATAN, SIGMOID, FAST_SIGMOID, TRIANGLE, RECTANGLE, LEE2020 };  // the order of SURROGATES

struct Scan {
  int64_t timesteps, steps;  // steps is 1 for a current that is the same in all of them
  int64_t batch, height, width, channels;
  const void *y;              // (steps, batch, height, width, channels), float or bfloat16
  const float *scale, *shift; // (channels), or null
  float decay, threshold, initial, slope;
  int32_t bfloat16, pool, soft_reset, detach_reset, strict, surrogate, threads;
};
}

namespace {

constexpr int LANES = 128;
constexpr int64_t CACHE_FLOATS = 1 << 14;  // of a tile's steps: half of a 64-kB first-level cache, or less
constexpr int64_t CHUNKS = 64;             // of the work; a fixed number, so that sums do not depend on the threads

// Calls work(chunk, first, end) for CHUNKS parts of 0..count, threads taking whole chunks: every loop that threads share.
// What is only read or belongs to one of the numbers first..end needs no care. A sum of fractions is taken for each chunk
// apart, so that its order is the same for any number of threads; a count that chunks share goes through `add`.
// Each thread has a copy of the work: its numbers then lie in registers, whatever is stored meanwhile.
template <class Work> void in_chunks(int64_t count, int threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) firstprivate(work)
  for (int64_t chunk = 0; chunk < CHUNKS; ++chunk) work(chunk, count * chunk / CHUNKS, count * (chunk + 1) / CHUNKS);
}

// To a count that other threads add to as well. Integers: their sum is the same in any order.
inline void add(int32_t &count, int32_t more) { __atomic_fetch_add(&count, more, __ATOMIC_RELAXED); }

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

  // From a tile's values in y to those of the next one, where that lies in the same row.
  int64_t next(const Tile &tile) const {
    return blocks > 1 ? width : tile.segments * (scan.pool ? 2 : 1) * scan.channels;
  }

  // Does the border cut off any segment's neuron number `sub`?
  bool cut(const Tile &tile, int sub) const {
    if (!(scan.height % 2 && sub / 2) && !(scan.width % 2 && sub % 2)) return false;
    for (int k = 0; k < tile.segments; ++k)
      if (input(tile, k, sub) < 0) return true;
    return false;
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

  // Calls work(chunk, tile) for all tiles. A window's tiles are one chunk's, for the cache, but where there is only one
  // window (a fully connected layer or a last pool, and one image): its tiles are all that threads can share.
  template <class Work> void run(const Work &work) const {
    int64_t group = windows == 1 ? 1 : blocks;
    in_chunks(count / group, scan.threads, [&](int64_t chunk, int64_t first, int64_t end) {
      for (int64_t i = first * group; i < end * group; ++i) work(chunk, (*this)[i]);
    });
  }
};

// A number per channel, repeated for every lane of a tile.
struct PerLane {
  float value[LANES];
  PerLane(const Tile &tile, const float *of_channel, float otherwise) {
    for (int k = 0; k < tile.segments; ++k)
      for (int c = 0; c < tile.width; ++c)
        value[k * tile.width + c] = of_channel ? of_channel[tile.first_channel + c] : otherwise;
  }
};

// Ask for what the next tile will read at that distance: with several steps, too many streams for the processor to guess.
template <class T> inline void prefetch(const T *from, int64_t distance, int width) {
  for (int c = 0; c < width; c += 64 / int(sizeof(T))) __builtin_prefetch(from + distance + c);
}

template <class T> void load_y(const Tiles &tiles, const Tile &tile, int64_t step, int sub, float *y) {
  const T *values = static_cast<const T *>(tiles.scan.y) + (tiles.scan.steps == 1 ? 0 : step) * tiles.step_size;
  for (int k = 0; k < tile.segments; ++k) {
    int64_t at = tiles.input(tile, k, sub);
    float *lane = y + k * tile.width;
    if (at < 0) { std::fill_n(lane, tile.width, 0.0f); continue; }
    prefetch(values + at, tiles.next(tile), tile.width);
    for (int c = 0; c < tile.width; ++c) lane[c] = to_float(values[at + c]);
  }
}

// The neuron's numbers, by value: the compiler could not know that storing a membrane leaves those of a Scan alone.
struct Neuron {
  float decay, threshold, fires_from;
  bool soft;
  explicit Neuron(const Scan &s) : decay(s.decay), threshold(s.threshold), soft(s.soft_reset) {
    fires_from = s.strict ? std::nextafter(s.threshold, INFINITY) : s.threshold;  // above it is from the next number on
  }
  bool fires(float h) const { return h >= fires_from; }
  float after_reset(float h) const { return soft ? h - (fires(h) ? threshold : 0.0f) : (fires(h) ? 0.0f : h); }
};

// One step of a tile: x = y * scale + shift, h = decay * v + x, and v after the reset.
void step(const Tiles &tiles, const Tile &tile, int sub, const float *y, const PerLane &scale, const PerLane &shift,
          float *v, float *h) {
  const Neuron neuron(tiles.scan);
  if (tiles.scan.scale)
#pragma omp simd
    for (int l = 0; l < tile.lanes; ++l) {
      float x = y[l] * scale.value[l] + shift.value[l];
      h[l] = neuron.decay * v[l] + x;
    }
  else
#pragma omp simd
    for (int l = 0; l < tile.lanes; ++l) h[l] = neuron.decay * v[l] + y[l];
#pragma omp simd
  for (int l = 0; l < tile.lanes; ++l) v[l] = neuron.after_reset(h[l]);
  if (!tiles.cut(tile, sub)) return;
  for (int k = 0; k < tile.segments; ++k)  // where the border cuts a window there is no neuron: none that fires
    if (tiles.input(tile, k, sub) < 0) std::fill_n(h + k * tile.width, tile.width, 0.0f);
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

// How many they are: at most four for each lane.
inline int32_t sum(const float *spikes, int width) {
  int32_t total = 0;
  for (int c = 0; c < width; ++c) total += int32_t(spikes[c]);
  return total;
}

template <class T> void forward(const Scan &scan, T *spikes, uint8_t *bits, int32_t *fired, int32_t *events) {
  Tiles tiles(scan);
  const Neuron neuron(scan);
  int64_t row_bytes = (scan.channels + 7) / 8;
  tiles.run([&](int64_t, const Tile &tile) {
    PerLane scale(tile, scan.scale, 1.0f), shift(tile, scan.shift, 0.0f);
    float y[4][LANES], v[4][LANES], h[LANES], out[LANES], all[LANES];
    std::fill_n(v[0], 4 * LANES, scan.initial);
    uint8_t bytes[LANES];
    int64_t positions[LANES];
    int32_t fired_here[LANES], events_here[LANES];  // of each segment, over all steps
    for (int k = 0; k < tile.segments; ++k)
      positions[k] = tiles.output(tile, k), fired_here[k] = events_here[k] = 0;
    for (int64_t t = 0; t < scan.timesteps; ++t) {
      for (int sub = 0; sub < tiles.subs; ++sub) {
        if (t == 0 || scan.steps > 1) load_y<T>(tiles, tile, t, sub, y[sub]);
        step(tiles, tile, sub, y[sub], scale, shift, v[sub], h);
        if (sub == 0)
          for (int l = 0; l < tile.lanes; ++l) out[l] = all[l] = neuron.fires(h[l]) ? 1.0f : 0.0f;
        else
          for (int l = 0; l < tile.lanes; ++l) {
            float s = neuron.fires(h[l]) ? 1.0f : 0.0f;
            all[l] += s;  // of the window
            out[l] = std::max(out[l], s);
          }
      }
      if (bits)
        for (int l = 0; l < tile.lanes; ++l) bytes[l] = uint8_t(out[l]);
      for (int k = 0; k < tile.segments; ++k) {
        const float *window = out + k * tile.width;
        if (fired) fired_here[k] += sum(all + k * tile.width, tile.width);
        int64_t position = positions[k];
        if (position < 0) continue;
        int64_t row = t * tiles.out_positions() + position;
        T *dense = spikes + row * scan.channels + tile.first_channel;
        for (int c = 0; c < tile.width; ++c) from_float(window[c], dense[c]);
        if (bits) pack_row(bytes + k * tile.width, tile.width, bits + row * row_bytes + tile.first_channel / 8);
        if (events) events_here[k] += sum(window, tile.width);
      }
    }
    for (int k = 0; k < tile.segments; ++k) {
      if (fired) add(fired[tile.first_window + k], fired_here[k]);
      if (events && positions[k] >= 0) add(events[positions[k]], events_here[k]);
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

// The stand-in for ds/dh at distance d = h - threshold; surrogate.py has the formulas and their papers.
template <int SURROGATE> inline float derivative(float d, bool s, float k, float threshold) {
  switch (SURROGATE) {
    case ATAN: { float z = d * (float(M_PI / 2) * k); return (k / 2) / (z * z + 1.0f); }
    case SIGMOID: { float e = exp_negative(-std::fabs(d * k)); return k * e / ((1.0f + e) * (1.0f + e)); }
    case FAST_SIGMOID: { float z = std::fabs(d) * k + 1.0f; return 1.0f / (z * z); }
    case TRIANGLE: return std::max(0.0f, 1.0f - std::fabs(d) * k);
    case RECTANGLE: return std::fabs(d) < 0.5f / k ? k : 0.0f;
    default: return s ? k / threshold : 0.0f;  // Lee et al. 2020
  }
}

// What a thread needs to take a tile back through time: for each neuron of a window and each step, LANES values.
struct Workspace {
  std::vector<float> y, h, grad;
  void fit(size_t values) {
    if (y.size() >= values) return;
    y.resize(values), h.resize(values), grad.resize(values);
  }
};

// The gradient of every neuron's spikes in step t: through the pool to the window's first of the largest, by counts.
template <class T>
void load_gradient(const Tiles &tiles, const Tile &tile, int64_t t, const T *grad_spikes, const float *grad_fired,
                   const float *grad_events, const float *const h[4], float *const grad[4]) {
  const Scan &scan = tiles.scan;
  const Neuron neuron(scan);
  float *arriving = grad[0];
  for (int k = 0; k < tile.segments; ++k) {
    int64_t position = tiles.output(tile, k);
    float *lane = arriving + k * tile.width;
    if (position < 0) { std::fill_n(lane, tile.width, 0.0f); continue; }
    const T *dense = grad_spikes + (t * tiles.out_positions() + position) * scan.channels + tile.first_channel;
    float event = grad_events ? grad_events[position] : 0.0f;
    prefetch(dense, tiles.blocks > 1 ? tiles.width : tile.segments * scan.channels, tile.width);
    for (int c = 0; c < tile.width; ++c) lane[c] = to_float(dense[c]) + event;
  }
  if (tiles.subs == 4) {
    const float *h0 = h[0], *h1 = h[1], *h2 = h[2], *h3 = h[3];
    float *g0 = grad[0], *g1 = grad[1], *g2 = grad[2], *g3 = grad[3];
#pragma omp simd
    for (int l = 0; l < tile.lanes; ++l) {
      float rest = g0[l], zeroth = neuron.fires(h0[l]) ? rest : 0.0f;
      rest = neuron.fires(h0[l]) ? 0.0f : rest;
      g1[l] = neuron.fires(h1[l]) ? rest : 0.0f;
      rest = neuron.fires(h1[l]) ? 0.0f : rest;
      g2[l] = neuron.fires(h2[l]) ? rest : 0.0f;
      rest = neuron.fires(h2[l]) ? 0.0f : rest;
      g3[l] = neuron.fires(h3[l]) ? rest : 0.0f;
      rest = neuron.fires(h3[l]) ? 0.0f : rest;
      g0[l] = zeroth + rest;  // none of them fired: all are the largest, and it is the first again
    }
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
void correct_for_leak(const Scan &scan, int lanes, const float *h, float *grad) {
  const Neuron neuron(scan);
  float filtered[LANES] = {}, total[LANES] = {}, log_decay = std::log(scan.decay);
  for (int64_t t = 0; t < scan.timesteps; ++t)
    for (int l = 0; l < lanes; ++l) {
      float s = neuron.fires(h[t * LANES + l]) ? 1.0f : 0.0f;
      filtered[l] = filtered[l] * neuron.decay + s;
      total[l] += s;
    }
  for (int l = 0; l < lanes; ++l)
    filtered[l] = (filtered[l] > 1e-3f ? 1.0f : 0.0f) + log_decay * filtered[l] / std::max(total[l], 1.0f);
  for (int64_t t = 0; t < scan.timesteps; ++t)
    for (int l = 0; l < lanes; ++l) grad[t * LANES + l] *= filtered[l];
}

// What the gradients of decay and threshold get from step t (of the initial membrane, see back_through_time); sigma, g and grad_v as in back_through_time.
void add_learned(const Scan &scan, int lanes, int64_t t, const float *h, const float *sigma, const float *grad_s,
                 const float *g, const float *grad_v, double *learned) {
  const Neuron neuron(scan);
  bool through = !scan.detach_reset;
  double of_decay = 0, of_threshold = 0;
  for (int l = 0; l < lanes; ++l) {
    float kept = neuron.soft ? float(neuron.fires(h[l])) - (through ? neuron.threshold * sigma[l] : 0.0f)
                             : (through ? -h[l] * sigma[l] : 0.0f);
    of_threshold -= grad_s[l] * sigma[l] + grad_v[l] * kept;
    of_decay += g[l] * (t > 0 ? neuron.after_reset(h[l - LANES]) : scan.initial);
  }
  learned[0] += of_decay, learned[1] += of_threshold;
}

// One neuron of each window back through time: grad, of the spikes, becomes the gradient of the current.
template <int SURROGATE, bool THROUGH>
void back_through_time(const Scan &scan, int lanes, const float *h, float *grad, double *learned) {
  float grad_v[LANES] = {}, sigmas[LANES], grad_s[LANES];  // grad_v: of the membrane after step t, from step t + 1
  const Neuron neuron(scan);
  float slope = scan.slope;
  for (int64_t t = scan.timesteps - 1; t >= 0; --t) {
    const float *ht = h + t * LANES;
    float *gt = grad + t * LANES, next[LANES];
    if (learned) std::copy_n(gt, lanes, grad_s);
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      bool s = neuron.fires(ht[l]);
      float sigma = derivative<SURROGATE>(ht[l] - neuron.threshold, s, slope, neuron.threshold);
      float g = gt[l] * sigma + (neuron.soft || !s ? grad_v[l] : 0.0f);
      if (THROUGH) g -= grad_v[l] * sigma * (neuron.soft ? neuron.threshold : ht[l]);
      sigmas[l] = sigma;
      gt[l] = g;
      next[l] = g * neuron.decay;
    }
    if (learned) add_learned(scan, lanes, t, ht, sigmas, grad_s, gt, grad_v, learned);
    std::copy_n(next, lanes, grad_v);
  }
  if (learned) learned[2] += std::accumulate(grad_v, grad_v + lanes, 0.0);
}

template <int SURROGATE> auto through_or_not(const Scan &scan) {
  return scan.detach_reset ? back_through_time<SURROGATE, false> : back_through_time<SURROGATE, true>;
}

auto way_back(const Scan &scan) {
  switch (scan.surrogate) {
    case ATAN: return through_or_not<ATAN>(scan);
    case SIGMOID: return through_or_not<SIGMOID>(scan);
    case FAST_SIGMOID: return through_or_not<FAST_SIGMOID>(scan);
    case TRIANGLE: return through_or_not<TRIANGLE>(scan);
    case RECTANGLE: return through_or_not<RECTANGLE>(scan);
    default: return through_or_not<LEE2020>(scan);
  }
}

template <class T>
void backward(const Scan &scan, const T *grad_spikes, const float *grad_fired, const float *grad_events,
              const float *center, const float *coefficients, double *channel_sums, double *learned, T *grad_y) {
  Tiles tiles(scan);
  auto back = way_back(scan);
  int64_t steps = scan.timesteps, channels = scan.channels, of_sub = steps * LANES;
  tiles.run([&](int64_t chunk, const Tile &tile) {
    static thread_local Workspace space;
    space.fit(size_t(tiles.subs * of_sub));
    PerLane scale(tile, scan.scale, 1.0f), shift(tile, scan.shift, 0.0f), mid(tile, center, 0.0f);
    PerLane a(tile, coefficients, 1.0f), b(tile, coefficients ? coefficients + channels : nullptr, 0.0f),
        c(tile, coefficients ? coefficients + 2 * channels : nullptr, 0.0f);
    float v[4][LANES];
    std::fill_n(v[0], 4 * LANES, scan.initial);
    for (int64_t t = 0; t < steps; ++t) {
      const float *h[4] = {};
      float *grad[4] = {};
      for (int sub = 0; sub < tiles.subs; ++sub) {
        int64_t at = sub * of_sub + t * LANES;
        float *y = &space.y[scan.steps > 1 ? at : sub * of_sub];
        if (scan.steps > 1 || t == 0) load_y<T>(tiles, tile, t, sub, y);
        step(tiles, tile, sub, y, scale, shift, v[sub], &space.h[at]);
        h[sub] = &space.h[at], grad[sub] = &space.grad[at];
      }
      load_gradient(tiles, tile, t, grad_spikes, grad_fired, grad_events, h, grad);
    }
    float sum_g[LANES] = {}, sum_gy[LANES] = {}, out[LANES];
    for (int sub = 0; sub < tiles.subs; ++sub) {
      float *grad = &space.grad[sub * of_sub];
      const float *h = &space.h[sub * of_sub], *y = &space.y[sub * of_sub];
      if (scan.surrogate == LEE2020) correct_for_leak(scan, tile.lanes, h, grad);
      back(scan, tile.lanes, h, grad, learned ? learned + 3 * chunk : nullptr);
      if (scan.steps == 1)
        for (int64_t t = 1; t < steps; ++t)
          for (int l = 0; l < tile.lanes; ++l) grad[l] += grad[t * LANES + l];
      for (int64_t t = 0; t < scan.steps; ++t) {
        const float *g = grad + t * LANES, *yt = y + t * LANES;
        if (channel_sums)
          for (int l = 0; l < tile.lanes; ++l) {
            sum_g[l] += g[l];
            sum_gy[l] += g[l] * (yt[l] - mid.value[l]);
          }
        if (!grad_y) continue;
        if (coefficients)
          for (int l = 0; l < tile.lanes; ++l)
            out[l] = a.value[l] * g[l] + b.value[l] * (yt[l] - mid.value[l]) + c.value[l];
        const float *result = coefficients ? out : g;
        for (int k = 0; k < tile.segments; ++k) {
          int64_t at = tiles.input(tile, k, sub);
          if (at < 0) continue;
          T *to = grad_y + t * tiles.step_size + at;
          for (int l = 0; l < tile.width; ++l) from_float(result[k * tile.width + l], to[l]);
        }
      }
    }
    if (channel_sums) {
      double *sums = channel_sums + 2 * channels * chunk + tile.first_channel;
      for (int k = 0; k < tile.segments; ++k)
        for (int l = 0; l < tile.width; ++l) {
          sums[l] += sum_g[k * tile.width + l];
          sums[channels + l] += sum_gy[k * tile.width + l];
        }
    }
  });
}

template <class T> void moments(const T *y, int64_t rows, int64_t channels, int threads, double *sums) {
  in_chunks(rows, threads, [=](int64_t chunk, int64_t first, int64_t end) {
    double *sum = sums + 2 * channels * chunk, *squares = sum + channels;
    for (int64_t row = first; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        double value = double(to_float(y[row * channels + c])) - double(to_float(y[c]));  // small where the mean is not
        sum[c] += value;
        squares[c] += value * value;
      }
  });
}

template <class T> void pack(const T *x, int64_t rows, int64_t channels, int threads, uint8_t *bits) {
  int64_t row_bytes = (channels + 7) / 8;
  in_chunks(rows, threads, [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row)
      for (int64_t c = 0; c < channels; c += LANES) {
        uint8_t s[LANES];
        int width = int(std::min<int64_t>(LANES, channels - c));
        for (int l = 0; l < width; ++l) s[l] = to_float(x[row * channels + c + l]) != 0.0f;
        pack_row(s, width, bits + row * row_bytes + c / 8);
      }
  });
}

template <class T> void unpack(const uint8_t *bits, int64_t rows, int64_t channels, int threads, T *x) {
  int64_t row_bytes = (channels + 7) / 8, whole = channels / 8;
  T of_byte[256][8];
  for (int byte = 0; byte < 256; ++byte)
    for (int k = 0; k < 8; ++k) from_float(float(byte >> k & 1), of_byte[byte][k]);
  const T(*table)[8] = of_byte;
  in_chunks(rows, threads, [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const uint8_t *from = bits + row * row_bytes;
      T *to = x + row * channels;
      for (int64_t j = 0; j < whole; ++j) std::memcpy(to + 8 * j, table[from[j]], sizeof table[0]);
      if (channels % 8) std::memcpy(to + 8 * whole, table[from[whole]], channels % 8 * sizeof(T));
    }
  });
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
