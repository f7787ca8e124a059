// The formats of 16 bits that maps may have beside float.
#ifndef KMASKRCNN_NUMBERS_H_
#define KMASKRCNN_NUMBERS_H_

#include <cstdint>

namespace kmaskrcnn {

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_NUMBERS_H_
