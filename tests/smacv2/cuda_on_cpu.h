// What a CUDA kernel needs of CUDA, for a C++ compiler: every thread of a block is a thread here.
//
// Blocks run one after the other. A thread that has returned is not waited for, as on a GPU.
// __CUDACC__ stays undefined, so prelude.h uses no function of a GPU.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#define SMACV2_SINGLE_PRECISION
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Position { unsigned int x; };
static thread_local Position threadIdx, blockIdx;

namespace cuda_on_cpu {

// The meetings of a warp's threads; a mask says which threads meet.
class Warp {
public:
    void meet(unsigned int self, unsigned int mask) {
        std::unique_lock lock(mutex);
        waiting |= self;
        const auto complete = [&] { return (mask & ~(waiting | gone)) == 0; };
        changed.wait(lock, [&] { return (waiting & self) == 0 || complete(); });
        if ((waiting & self) == 0) return;
        waiting &= ~mask;
        changed.notify_all();
    }
    void leave(unsigned int self) {
        const std::unique_lock lock(mutex);
        gone |= self;
        changed.notify_all();
    }

private:
    std::mutex mutex;
    std::condition_variable changed;
    unsigned int waiting = 0, gone = 0;  // a bit per thread
};

struct Block {
    std::barrier<> everyone;
    std::vector<Warp> warps;
    std::atomic<bool> any = false;

    explicit Block(int threads) : everyone(threads), warps(threads / 32) {}
    Warp& warp() { return warps[threadIdx.x / 32]; }
};

static Block* block;

inline unsigned int self() { return 1u << threadIdx.x % 32; }

// Run the kernel by each thread of each block; a block finds rubbish in its shared memory.
template <class Kernel>
void run_blocks(int grid, int threads, int* memory, int words, const Kernel& kernel) {
    for (int place = 0; place < grid; place++) {
        std::fill(memory, memory + words, 0x5A5A5A5A);
        Block here(threads);
        block = &here;
        std::vector<std::thread> running;
        for (int thread = 0; thread < threads; thread++) {
            running.emplace_back([=, &here, &kernel] {
                threadIdx.x = thread;
                blockIdx.x = place;
                kernel();
                here.warp().leave(self());
                here.everyone.arrive_and_drop();
            });
        }
        for (std::thread& thread : running) thread.join();
    }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block->everyone.arrive_and_wait(); }

inline void __syncwarp(unsigned int mask) {
    cuda_on_cpu::block->warp().meet(cuda_on_cpu::self(), mask);
}

// Meet, and return whether any thread's value is not 0.
inline int __syncthreads_or(int value) {
    __syncthreads();
    cuda_on_cpu::block->any = false;
    __syncthreads();
    if (value != 0) cuda_on_cpu::block->any = true;
    __syncthreads();
    return cuda_on_cpu::block->any;
}
