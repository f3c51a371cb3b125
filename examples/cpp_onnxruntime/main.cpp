// Detect objects with ONNX Runtime: detect model.onnx picture.ppm
//
// The model is a file that `yoloquant quantize --nms` wrote: images (1, 3, H, W), RGB, 0..1, in; rows of corners, score and class
// number out, best first, zeros behind the last. The picture is binary PPM (P6), 8 bits a channel.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr float kPadding = 114.0f / 255.0f;

struct Picture {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> pixels;  // height x width x RGB

    float at(int row, int column, int channel) const {
        row = std::clamp(row, 0, height - 1);
        column = std::clamp(column, 0, width - 1);
        return pixels[(static_cast<std::size_t>(row) * width + column) * 3 + channel] / 255.0f;
    }
};

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    Picture picture;
    int most = 0;
    file >> magic >> picture.width >> picture.height >> most;
    if (!file || magic != "P6" || most != 255) throw std::runtime_error(path + " is no binary PPM with 8 bits a channel");
    file.get();
    picture.pixels.resize(static_cast<std::size_t>(picture.width) * picture.height * 3);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
    if (!file) throw std::runtime_error(path + " is cut off");
    return picture;
}

struct Fit {
    float scale;
    int left;
    int top;
};

// Scale with aspect ratio, bilinear, grey around; planes of RGB in `images`.
Fit fit(const Picture& picture, int height, int width, std::vector<float>& images) {
    Fit fit{};
    fit.scale = std::min(static_cast<float>(height) / picture.height, static_cast<float>(width) / picture.width);
    const int inner_width = static_cast<int>(std::lround(picture.width * fit.scale));
    const int inner_height = static_cast<int>(std::lround(picture.height * fit.scale));
    fit.left = (width - inner_width) / 2;
    fit.top = (height - inner_height) / 2;
    images.assign(static_cast<std::size_t>(3) * height * width, kPadding);
    for (int row = 0; row < inner_height; ++row) {
        for (int column = 0; column < inner_width; ++column) {
            const float y = (row + 0.5f) / fit.scale - 0.5f, x = (column + 0.5f) / fit.scale - 0.5f;
            const int top = static_cast<int>(std::floor(y)), left = static_cast<int>(std::floor(x));
            const float down = y - top, right = x - left;
            for (int channel = 0; channel < 3; ++channel) {
                const float above = picture.at(top, left, channel) * (1 - right) + picture.at(top, left + 1, channel) * right;
                const float below =
                    picture.at(top + 1, left, channel) * (1 - right) + picture.at(top + 1, left + 1, channel) * right;
                const std::size_t place =
                    (static_cast<std::size_t>(channel) * height + row + fit.top) * width + column + fit.left;
                images[place] = above * (1 - down) + below * down;
            }
        }
    }
    return fit;
}

void detect(const std::string& model, const std::string& path) {
    const Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "detect");
    Ort::Session session(environment, model.c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    const auto input_name = session.GetInputNameAllocated(0, allocator);
    const auto output_name = session.GetOutputNameAllocated(0, allocator);
    auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = 1;

    std::vector<float> images;
    const Fit place = fit(read_ppm(path), static_cast<int>(shape[2]), static_cast<int>(shape[3]), images);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto tensor = Ort::Value::CreateTensor<float>(memory, images.data(), images.size(), shape.data(), shape.size());
    const std::array<const char*, 1> inputs{input_name.get()}, outputs{output_name.get()};
    const auto answers = session.Run(Ort::RunOptions{}, inputs.data(), &tensor, 1, outputs.data(), 1);

    const auto rows = answers[0].GetTensorTypeAndShapeInfo().GetShape();  // 1, K, 6
    const float* row = answers[0].GetTensorData<float>();
    for (std::int64_t number = 0; number < rows[1] && row[4] > 0.0f; ++number, row += 6) {
        std::printf("%d %.2f %.0f %.0f %.0f %.0f\n", static_cast<int>(row[5]), row[4], (row[0] - place.left) / place.scale,
                    (row[1] - place.top) / place.scale, (row[2] - place.left) / place.scale, (row[3] - place.top) / place.scale);
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) {
        std::fprintf(stderr, "usage: detect model.onnx picture.ppm\n");
        return 2;
    }
    try {
        detect(words[1], words[2]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
    return 0;
}
