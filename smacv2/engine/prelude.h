// The few types and functions that translated battle rules need (see translate.py).
//
// The including file may define RULE, INLINE_RULE, DEVICE and MEET() beforehand. With
// SMACV2_CHECKED, every index, narrowing and left shift is checked, and a bad one aborts. Without
// it nothing is included, so that NVRTC compiles it too.

#pragma once

#ifdef SMACV2_CHECKED
#include <cstdio>
#include <cstdlib>
#endif

#ifndef DEVICE
#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#define DEVICE inline __attribute__((always_inline))
#endif
#endif

#ifndef RULE
#ifdef __CUDACC__
#define RULE __device__
#else
#define RULE
#endif
#endif

#ifndef INLINE_RULE
#define INLINE_RULE DEVICE
#endif

#ifndef MEET
#define MEET() ((void)0)
#endif

namespace smacv2 {

using int8 = signed char;
using int32 = int;
using int64 = long long;
using uint32 = unsigned int;
using uint64 = unsigned long long;
using float32 = float;
using float64 = double;

#ifdef __CUDACC__
using Index = int32;
#else
using Index = int64;
#endif

// A checked function also takes the place of its call, to report it.
#ifdef SMACV2_CHECKED
#define CALLER , const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SAME_CALLER , file, line
#define REQUIRE(condition, message, value)                                                     \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            const long long number = static_cast<long long>(value);                            \
            std::fprintf(stderr, "%s:%d: %s: %lld\n", file, line, message, number);            \
            std::abort();                                                                      \
        }                                                                                      \
    } while (0)
#else
#define CALLER
#define SAME_CALLER
#define REQUIRE(condition, message, value) ((void)0)
#endif

#define REQUIRE_INDEX(axis, i, n) REQUIRE(0 <= i && i < n, "index out of range of axis " #axis, i)

// --- Arrays: dense, row-major views of one, two or three dimensions ---

template <class T> struct View1 {
    T* data;
    int32 n0;

    DEVICE T& operator()(Index i CALLER) const {
        REQUIRE_INDEX(0, i, n0);
        return data[i];
    }
    DEVICE int32 shape(int) const { return n0; }
};

template <class T> struct View2 {
    T* data;
    int32 n0, n1;

    DEVICE T& operator()(Index i, Index j CALLER) const {
        REQUIRE_INDEX(0, i, n0);
        REQUIRE_INDEX(1, j, n1);
        return data[i * n1 + j];
    }
    DEVICE View1<T> row(Index i CALLER) const {
        REQUIRE_INDEX(0, i, n0);
        return {data + i * n1, n1};
    }
    DEVICE int32 shape(int axis) const { return axis == 0 ? n0 : n1; }
};

template <class T> struct View3 {
    T* data;
    int32 n0, n1, n2;

    DEVICE T& operator()(Index i, Index j, Index k CALLER) const {
        return row(i SAME_CALLER)(j, k SAME_CALLER);
    }
    DEVICE View2<T> row(Index i CALLER) const {
        REQUIRE_INDEX(0, i, n0);
        return {data + static_cast<int64>(i) * n1 * n2, n1, n2};
    }
    DEVICE int32 shape(int axis) const { return axis == 0 ? n0 : axis == 1 ? n1 : n2; }
};

// --- Arrays of known lengths, and batches of them ---

template <class T, int32 LENGTH> struct Line {
    using Element = T;
    static constexpr int32 SIZE = LENGTH;
    T* data;

    DEVICE T& operator()(Index i CALLER) const {
        REQUIRE_INDEX(0, i, LENGTH);
        return data[i];
    }
    DEVICE int32 shape(int axis) const { return LENGTH; }
};

template <class T, int32 ROWS, int32 COLUMNS> struct Table {
    using Element = T;
    static constexpr int32 SIZE = ROWS * COLUMNS;
    T* data;

    DEVICE T& operator()(Index i, Index j CALLER) const {
        REQUIRE_INDEX(0, i, ROWS);
        REQUIRE_INDEX(1, j, COLUMNS);
        return data[i * COLUMNS + j];
    }
    DEVICE Line<T, COLUMNS> row(Index i CALLER) const {
        REQUIRE_INDEX(0, i, ROWS);
        return {data + i * COLUMNS};
    }
    DEVICE int32 shape(int axis) const { return axis == 0 ? ROWS : COLUMNS; }
};

// A line or a table per battle.
template <class Battle> struct Batch {
    typename Battle::Element* data;
    int32 n0;

    DEVICE typename Battle::Element& operator()(Index b, Index i CALLER) const {
        return row(b SAME_CALLER)(i SAME_CALLER);
    }
    DEVICE Battle row(Index b CALLER) const {
        REQUIRE_INDEX(0, b, n0);
        return {data + static_cast<int64>(b) * Battle::SIZE};
    }
};

// --- Results of rules that return several values ---

template <class A, class B> struct Tuple2 { A v0; B v1; };
template <class A, class B, class C> struct Tuple3 { A v0; B v1; C v2; };
template <class A, class B, class C, class D> struct Tuple4 { A v0; B v1; C v2; D v3; };

// --- Integers as in Python ---

// The same number in a narrower type.
template <class To, class From> DEVICE To narrow(From value CALLER) {
    REQUIRE(static_cast<From>(static_cast<To>(value)) == value, "number too large", value);
    return static_cast<To>(value);
}

template <class T> DEVICE T floor_div(T a, T b) {
    const T quotient = a / b;
    return quotient - (quotient * b != a && (a < 0) != (b < 0));
}

template <class T> DEVICE T floor_mod(T a, T b) {
    const T remainder = a % b;
    return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

template <class T> DEVICE T shift_left(T a, int64 bits CALLER) {
    const T shifted = static_cast<T>(static_cast<uint64>(a) << bits);
    REQUIRE(shifted >> bits == a, "left shift overflows", a);
    return shifted;
}

template <class T> DEVICE T smaller(T a, T b) { return b < a ? b : a; }
template <class T> DEVICE T larger(T a, T b) { return b > a ? b : a; }
template <class T> DEVICE T absolute(T a) { return a < 0 ? -a : a; }

// --- Rules with a faster C++ equivalent (INTRINSICS in expressions.py) ---

// Index of the lowest bit that is set.
DEVICE int32 lowest_bit(int32 bits) {
#ifdef __CUDACC__
    return __ffs(bits) - 1;
#else
    return __builtin_ctz(static_cast<uint32>(bits));
#endif
}

// High and low word of the product of two 32-bit words.
DEVICE Tuple2<int64, int64> multiply_words(int64 a, int64 b) {
    const uint64 product = static_cast<uint64>(static_cast<uint32>(a)) * static_cast<uint32>(b);
    return {static_cast<int64>(product >> 32), static_cast<int64>(product & 0xFFFFFFFFu)};
}

#if defined(__CUDACC__) || defined(SMACV2_SINGLE_PRECISION)

// Guesses with a relative error below 2**-21: integers correct them.
#ifdef __CUDACC__
#define INVERSE_ROOT(x) rsqrtf(x)
#define INVERSE(x) __fdividef(1.0f, x)
#else
#define INVERSE_ROOT(x) (1.0f / __builtin_sqrtf(x))
#define INVERSE(x) (1.0f / (x))
#endif

DEVICE int32 nearest(float value) {
    return static_cast<int32>(value + (value < 0.0f ? -0.5f : 0.5f));
}

// A float32 guess and one Newton step come within 1 of the root; integers decide the rest.
DEVICE int32 isqrt(int64 n) {
    const float value = static_cast<float>(n);
    const float reciprocal = INVERSE_ROOT(value < 1.0f ? 1.0f : value);
    int32 root = static_cast<int32>(value * reciprocal);
    const int64 rest = n - static_cast<int64>(root) * root;
    root += nearest(static_cast<float>(rest) * (0.5f * reciprocal));
    const int64 left = n - static_cast<int64>(root) * root;
    return root + (left < 0 ? -1 : left > 2 * static_cast<int64>(root) ? 1 : 0);
}

DEVICE int64 inverse(int64 distance) {
    const int64 one = static_cast<int64>(1) << 40;
    const int64 divisor = distance < 1 ? 1 : distance;
    const float reciprocal = INVERSE(static_cast<float>(divisor));
    int64 quotient = static_cast<int64>(reciprocal * 1099511627776.0f);
    const int64 rest = one - quotient * divisor;
    quotient += nearest(static_cast<float>(rest) * reciprocal);
    const int64 left = one - quotient * divisor;
    return quotient + (left < 0 ? -1 : left >= divisor ? 1 : 0);
}

#else

// Exact without correction: below 2**52 the root of k * k - 1 is further from k than float64
// rounds.
DEVICE int32 isqrt(int64 n) {
    return static_cast<int32>(__builtin_sqrt(static_cast<double>(n)));
}

// Exact: a quotient that is not whole is further from the next whole number than float64 rounds.
DEVICE int64 inverse(int64 distance) {
    return static_cast<int64>(1099511627776.0 / static_cast<double>(distance < 1 ? 1 : distance));
}

#endif

}  // namespace smacv2
