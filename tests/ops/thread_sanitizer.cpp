// Every kernel of KERNELS (cpu_kernels.cpp) on four threads, for test_thread_sanitizer.py.
//
// g++'s thread sanitizer does not know what libgomp's threads wait for, so this stands in for libgomp: the same entry
// points, on std::thread. Iterations are dealt out in turn, so that neighbouring ones are never one thread's: what two
// threads could do to one place, two threads do here.

#include <cstdio>
#include <thread>
#include <vector>

#include KERNELS

namespace {
struct Team { long number = 0, size = 1; };
struct Loop { long next = 0, end = 0, by = 1; };
thread_local Team team;
thread_local Loop loop;

template <class Work> void on_threads(unsigned size, const Work &work) {
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < size; ++number)
    threads.emplace_back([=] { team = {long(number), long(size)}, work(number); });
  for (auto &thread : threads) thread.join();
}
}  // namespace

extern "C" {
void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned) {
  on_threads(threads, [=](unsigned) { body(data); });
}
void GOMP_parallel_loop_dynamic(void (*body)(void *), void *data, unsigned threads, long start, long end, long step,
                                long, unsigned) {
  on_threads(threads, [=](unsigned number) {
    loop = {start + step * long(number), end, step * long(threads)};
    body(data);
  });
}
bool GOMP_loop_dynamic_next(long *start, long *end) {
  if (loop.next >= loop.end) return false;
  *start = loop.next, *end = loop.next + 1, loop.next += loop.by;
  return true;
}
void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void *), void *data, unsigned threads, long start, long end,
                                             long step, long chunk, unsigned flags) {
  GOMP_parallel_loop_dynamic(body, data, threads, start, end, step, chunk, flags);
}
bool GOMP_loop_nonmonotonic_dynamic_next(long *start, long *end) { return GOMP_loop_dynamic_next(start, end); }
void GOMP_loop_end_nowait() {}
int omp_get_num_threads() { return int(team.size); }
int omp_get_thread_num() { return int(team.number); }
}

namespace {
struct Shape { int64_t timesteps, batch, height, width, channels; };

template <class T> void run(Shape shape, bool constant, bool pool, int surrogate) {
  auto [timesteps, batch, height, width, channels] = shape;
  int64_t steps = constant ? 1 : timesteps, rows = steps * batch * height * width;
  int64_t out_rows = pool ? height / 2 : height, out_columns = pool ? width / 2 : width;
  int64_t windows = batch * (pool ? (height + 1) / 2 * ((width + 1) / 2) : height * width);
  int64_t outputs = batch * out_rows * out_columns, row_bytes = (channels + 7) / 8;
  std::vector<T> y(rows * channels), spikes(timesteps * outputs * channels), grad_y(y.size()), unpacked(y.size());
  for (size_t i = 0; i < y.size(); ++i) from_float(float(i % 7) / 4, y[i]);
  std::vector<float> scale(channels, 1.0f), shift(channels, 0.1f), center(channels), coefficients(3 * channels, 1.0f);
  std::vector<float> grad_fired(windows, 1.0f), grad_events(outputs, 1.0f);
  std::vector<uint8_t> bits(timesteps * outputs * row_bytes), packed(rows * row_bytes);
  std::vector<int32_t> fired(windows), events(outputs);
  std::vector<double> sums(2 * channels * CHUNKS), learned(3 * CHUNKS), of_moments(2 * channels * CHUNKS);
  constexpr bool half = sizeof(T) == 2;
  const int threads = 4;
  Scan scan{timesteps, steps, batch, height, width, channels, y.data(), scale.data(), shift.data(),
            0.5f, 1.0f, 0.0f, 2.0f, half, pool, 0, 0, 0, surrogate, threads};
  int32_t *of_pool = pool ? events.data() : nullptr;
  spikesparse_moments(y.data(), half, rows, channels, threads, of_moments.data());
  spikesparse_forward(&scan, spikes.data(), bits.data(), fired.data(), of_pool);
  spikesparse_backward(&scan, spikes.data(), grad_fired.data(), pool ? grad_events.data() : nullptr, center.data(),
                       coefficients.data(), sums.data(), learned.data(), grad_y.data());
  spikesparse_pack(y.data(), half, rows, channels, threads, packed.data());
  spikesparse_unpack(packed.data(), half, rows, channels, threads, unpacked.data());
  int64_t total = 0;
  for (int32_t count : fired) total += count;
  std::printf("%ld spikes\n", long(total));
}
}  // namespace

int main() {
  for (Shape shape : {Shape{3, 1, 1, 1, 1024}, Shape{2, 6, 1, 1, 33}, Shape{2, 2, 5, 3, 19}, Shape{2, 1, 2, 2, 300}})
    for (bool constant : {false, true}) {
      run<float>(shape, constant, false, ATAN);
      if (shape.height > 1) run<float>(shape, constant, true, ATAN);
    }
  run<BFloat16>({3, 1, 2, 2, 512}, false, true, LEE2020);
  run<float>({3, 1, 2, 2, 512}, true, true, LEE2020);
}
