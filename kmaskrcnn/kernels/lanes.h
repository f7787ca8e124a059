// As many channels at once as the processor has lanes, for float, bfloat16 and float16; arithmetic is in float.
#ifndef KMASKRCNN_LANES_H_
#define KMASKRCNN_LANES_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#include "numbers.h"

namespace kmaskrcnn {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

// -- one number -------------------------------------------------------------------------------------------------------

inline float word_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t float_to_word(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float to_float(float value) { return value; }
inline float to_float(bfloat16 value) { return word_to_float(static_cast<uint32_t>(value.bits) << 16); }
inline float to_float(float16 value) {
#ifdef __F16C__
  return _cvtsh_ss(value.bits);
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return word_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // TensorFlow's threads take subnormal float32 numbers as 0, so those of float16 must not become any on the way.
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return word_to_float(sign | (magnitude < 0x400u ? float_to_word(subnormal) : (magnitude << 13) + 0x38000000u));
#endif
}

inline void from_float(float value, float* to) { *to = value; }
inline void from_float(float value, bfloat16* to) {
  const uint32_t bits = float_to_word(value);
  // To the nearest, halves to the even one; NaN stays NaN.
  to->bits = value == value ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : (bits >> 16 | 0x40u);
}
inline void from_float(float value, float16* to) {
#ifdef __F16C__
  to->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t bits = float_to_word(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    to->bits = sign | 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    to->bits = sign | 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: the addition rounds
    to->bits = sign | (float_to_word(word_to_float(magnitude) + 0.5f) - 0x3f000000u);
  } else {
    to->bits = sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
#endif
}

// -- kLanes numbers ---------------------------------------------------------------------------------------------------

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

// g++ 12 takes a generic conversion between 16 and 32 bits apart into single numbers.
inline Words widen(const void* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from))));
#else
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return __builtin_convertvector(halves, Words);
#endif
}
inline void narrow(Words words, void* to) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(words)));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32(reinterpret_cast<__m256i>(words), _mm256_setzero_si256());
  _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  const Halves halves = __builtin_convertvector(words, Halves);
  std::memcpy(to, &halves, sizeof halves);
#endif
}

inline Lanes load(const bfloat16* from) { return reinterpret_cast<Lanes>(widen(from) << 16); }
inline Lanes load(const float16* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Lanes>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
  return reinterpret_cast<Lanes>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = to_float(from[i]);
  return lanes;
#endif
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }
inline void store(bfloat16* to, Lanes lanes) {
  const Words bits = reinterpret_cast<Words>(lanes);
  const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Words quiet_nan = bits >> 16 | 0x40u;
  narrow(lanes == lanes ? rounded : quiet_nan, to);
}
inline void store(float16* to, Lanes lanes) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_cvtps_ph(reinterpret_cast<__m512>(lanes), _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
#elif defined(__F16C__)
  const __m128i halves = _mm256_cvtps_ph(reinterpret_cast<__m256>(lanes), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
#else
  for (int i = 0; i < kLanes; ++i) from_float(lanes[i], to + i);
#endif
}

// Past the caches: what is written once and not read back soon. `to` is a multiple of its lanes' bytes.
template <class T>
inline void stream(T* to, Lanes lanes) { store(to, lanes); }
#if defined(__AVX512F__)
inline void stream(float* to, Lanes lanes) { _mm512_stream_ps(to, reinterpret_cast<__m512>(lanes)); }
#elif defined(__AVX__)
inline void stream(float* to, Lanes lanes) { _mm256_stream_ps(to, reinterpret_cast<__m256>(lanes)); }
#endif

// What was streamed is seen by all after it.
inline void end_of_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_LANES_H_
